// This file reads the keys that a manifest names, and verifies signatures with
// them.

package pin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"meros/constellations"
	"meros/runner/hint"
	"meros/runner/kernel"
	"meros/stages"
)

// The bytes by which a key's format is recognised.
var (
	armorBegin = []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----")
	pemBegin   = []byte("-----BEGIN PUBLIC KEY-----") // Alpine's
	keybox     = []byte("KBXf")                       // at keyboxAt
)

const keyboxAt = 8

// keyFiles returns the paths of a machine's keys.
func (p *Pinner) keyFiles(m *constellations.Manifest, vm *constellations.Machine) ([]string, error) {
	var files []string
	for _, k := range vm.Keys {
		file, err := stages.Find(p.Root, m, "key", k)
		if err != nil {
			return nil, &ManifestError{fmt.Errorf("%s/%s: %w", m.Name, vm.Name, err)}
		}
		files = append(files, file)
	}
	return files, nil
}

// keyringsFor writes all keys that the manifest names for a section to files in
// dir, where apt's own user can read them. It returns the files, or none if the
// manifest names no keys. It skips the keys of Alpine, because a manifest may name
// them for all of its machines.
func (p *Pinner) keyringsFor(m *constellations.Manifest, s constellations.Section, dir string) ([]string, error) {
	var files []string
	for i := range m.Machines {
		vm := &m.Machines[i]
		if vm.Section() != s {
			continue
		}
		ofMachine, err := p.keyFiles(m, vm)
		if err != nil {
			return nil, err
		}
		for _, f := range ofMachine {
			if !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	var k keyrings
	for _, f := range files {
		if err := k.add(f); err != nil {
			return nil, fmt.Errorf("read a key of the manifest: %w", err)
		}
	}
	return k.write(dir)
}

// keyrings holds OpenPGP keys in the two formats that apt tells apart by the
// names of files, apt-key(8).
type keyrings struct {
	binary  []byte
	armored [][]byte
}

// add reads the keys of a file. The name of the file does not matter.
func (k *keyrings) add(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	switch i := bytes.Index(b, armorBegin); {
	case len(bytes.TrimSpace(b)) == 0: // without this error, apt would trust the distribution's keys instead
		return hint.Add(fmt.Errorf("%s has no key in it", file), "`gpg --export KEY >FILE` makes a keyring")
	case i >= 0:
		// apt reads only the first of several keys in one file.
		for _, block := range bytes.Split(b[i+len(armorBegin):], armorBegin) {
			k.armored = append(k.armored, slices.Concat(armorBegin, block))
		}
	case bytes.Contains(b, pemBegin):
	case len(b) >= keyboxAt && bytes.HasPrefix(b[keyboxAt:], keybox):
		return hint.Add(fmt.Errorf("%s is a keybox, which apt cannot read", file),
			"`gpg --no-default-keyring --keyring %s --export >FILE` makes a keyring of it", file)
	default:
		k.binary = append(k.binary, b...)
	}
	return nil
}

// write writes the keys to files in dir and returns the files.
func (k *keyrings) write(dir string) (files []string, err error) {
	put := func(name string, b []byte) {
		file := filepath.Join(dir, name)
		if err == nil {
			err = os.WriteFile(file, b, 0o644)
		}
		files = append(files, file)
	}
	if len(k.binary) > 0 {
		put("keyring.gpg", k.binary)
	}
	for i, b := range k.armored {
		put(fmt.Sprintf("keyring-%d.asc", i), b)
	}
	return files, err
}

// verifySignature verifies a detached signature of a file. It looks for
// URL.sign, URL.asc and URL.sig. Before these it looks for the signature of the
// archive before its compression, as kernel.org publishes it.
func (p *Pinner) verifySignature(ctx context.Context, location, file, keyring string) error {
	plain := location
	if i := strings.LastIndex(location, ".tar."); i > 0 {
		plain = location[:i+len(".tar")]
	}
	compression := constellations.TarCompression(location)
	var errs []error
	for _, try := range []struct{ url, compression string }{
		{plain + ".sign", compression}, {location + ".sign", "none"}, {location + ".asc", "none"}, {location + ".sig", "none"},
	} {
		var signature bytes.Buffer
		if _, err := p.copy(ctx, &signature, try.url, 1<<20); err != nil {
			errs = append(errs, err)
			continue
		}
		return gpgv(ctx, file, try.compression, signature.Bytes(), keyring)
	}
	return fmt.Errorf("%s: there is no signature to verify with the key in the manifest:\n%w", location, errors.Join(errs...))
}

// gpgv verifies a signature with the keys of a keyring, and with no others.
func gpgv(ctx context.Context, file, compression string, signature []byte, keyring string) error {
	keyring, err := filepath.Abs(keyring)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(file), "gpgv-") // in the scratch directory of the download
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sig := filepath.Join(dir, "signature")
	if err := os.WriteFile(sig, signature, 0o600); err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return kernel.Decompress(ctx, f, compression, func(r io.Reader) error {
		cmd := exec.CommandContext(ctx, "gpgv", "--keyring", keyring, sig, "-")
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "GNUPGHOME=" + dir}
		cmd.Stdin = r
		out, err := cmd.CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			return hint.Add(errors.New("gpgv, which verifies signatures, is not installed"), "on Debian: `apt install gpgv`")
		}
		if err != nil {
			return fmt.Errorf("the signature is not good for a key in %s: %s", keyring, strings.TrimSpace(string(out)))
		}
		return nil
	})
}
