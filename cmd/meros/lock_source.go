package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"meros/cache"
	"meros/constellations"
	"meros/runner/fetch"
	"meros/runner/kernel"
	"meros/stages"
)

// pinSource finds out what a source is now.
func pinSource(e *env, m *constellations.Manifest, lock *constellations.Lock, s constellations.Source) error {
	if lock.Pins(constellations.Need{Source: &s}) {
		return nil // another machine's
	}
	var err error
	switch s.Kind {
	case constellations.KernelGit:
		e.ui.note("asking %s for %s", s.URL, s.Ref)
		s.Commit, err = remoteCommit(e.ctx, s.URL, s.Ref)
	case constellations.SourceRegistry:
		e.ui.note("asking for %s", s.URL)
		err = pinImage(e, &s)
	case constellations.KernelTarball, constellations.SourceImage:
		e.ui.note("downloading %s", s.URL)
		var key string
		if key, err = keyOf(e, m, s.URL); err == nil {
			err = pinFile(e, &s, key)
		}
	}
	if err == nil {
		lock.Sources = append(lock.Sources, s)
	}
	return err
}

// pinImage asks a registry for an image and its layers.
func pinImage(e *env, s *constellations.Source) error {
	reference, _ := constellations.RegistryReference(s.URL)
	registries, err := newRegistries()
	if err != nil {
		return err
	}
	manifest, layers, err := registries.Image(e.ctx, reference, s.Ref)
	if err != nil {
		return fmt.Errorf("image %s: %w", s.URL, err)
	}
	s.SHA256 = manifest
	for _, l := range layers {
		s.Layers = append(s.Layers, constellations.SourceLayer(l))
	}
	return nil
}

var commitID = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

// remoteCommit asks a repository which commit a branch, tag or commit is.
func remoteCommit(ctx context.Context, repository, ref string) (string, error) {
	if commitID.MatchString(ref) {
		return ref, nil
	}
	cmd := exec.CommandContext(ctx, "git", "-c", "safe.directory=*", "ls-remote", "--quiet", "--", repository)
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", errors.New("git is not installed (Debian: apt install git)")
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil:
		return "", fmt.Errorf("git ls-remote %s: %w: %s", repository, err, strings.TrimSpace(said.String()))
	}
	return pickRef(string(out), repository, ref)
}

// pickRef finds ref in the lines of git ls-remote: as a branch, then as a tag
// (the commit it points to), then as it is.
func pickRef(list, repository, ref string) (string, error) {
	commits := make(map[string]string)
	var names []string
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) != 2 || !commitID.MatchString(f[0]) {
			continue
		}
		commits[f[1]] = f[0]
		for _, kind := range []string{"refs/heads/", "refs/tags/"} {
			if n, ok := strings.CutPrefix(f[1], kind); ok && !strings.HasSuffix(n, "^{}") {
				names = append(names, n)
			}
		}
	}
	for _, name := range []string{"refs/heads/" + ref, "refs/tags/" + ref + "^{}", "refs/tags/" + ref, ref} {
		if c, ok := commits[name]; ok {
			return c, nil
		}
	}
	hint := "it has none"
	if near := constellations.Nearest(ref, names); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	} else if len(names) > 0 {
		slices.Sort(names)
		hint = "there are: " + strings.Join(names[:min(len(names), 10)], ", ")
	}
	return "", fmt.Errorf("%s has no branch or tag %q (%s)", repository, ref, hint)
}

// keyOf is the keyring that the manifest names for a tarball, or "".
func keyOf(e *env, m *constellations.Manifest, location string) (string, error) {
	for _, vm := range m.Machines {
		if vm.Kernel.Location == location && vm.Kernel.Key != "" {
			return stages.Find(e.root, m, "key", vm.Kernel.Key)
		}
	}
	return "", nil
}

// maxSource bounds the download of a source, bytes.
const maxSource = 64 << 30

// pinFile downloads a file to learn its size and digest, and leaves it
// where the build finds it. A digest in the manifest must be the one; a key in
// the manifest must have signed it.
func pinFile(e *env, s *constellations.Source, keyring string) error {
	servers := new(servers)
	d, err := keepDownload(e, servers, s.URL, maxSource)
	if err != nil {
		return err
	}
	defer d.close()
	if s.SHA256 != "" && s.SHA256 != d.sum {
		return fmt.Errorf("%s has the digest sha256:%s, but the manifest says sha256:%s (if that is of another version: change it with the URL)", s.URL, d.sum, s.SHA256)
	}
	s.Size, s.SHA256 = d.size, d.sum
	if keyring != "" {
		if err := verifySignature(e.ctx, servers, s.URL, d.file, keyring); err != nil {
			return err
		}
		e.ui.note("its signature is good")
	}
	return d.keep()
}

// kept is a download whose digest was not known beforehand.
type kept struct {
	file    string // where it is until it is kept
	sum     string // SHA-256, in hexadecimal
	size    int64  // bytes
	partial string // directory of the files that fetches go on from
	scratch *cache.Scratch
}

// keepDownload downloads a file to a scratch directory of the project.
func keepDownload(e *env, servers *servers, from string, limit int64) (*kept, error) {
	partial := filepath.Join(e.root, "data", "cache", "partial")
	if err := os.MkdirAll(partial, 0o755); err != nil {
		return nil, err
	}
	scratch, err := e.scratch()
	if err != nil {
		return nil, err
	}
	k := &kept{file: filepath.Join(scratch.Dir(), "download"), partial: partial, scratch: scratch}
	if err := k.download(e.ctx, servers, from, limit); err != nil {
		k.close()
		return nil, err
	}
	return k, nil
}

func (k *kept) download(ctx context.Context, servers *servers, from string, limit int64) error {
	f, err := os.OpenFile(k.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	k.size, err = download(ctx, servers, from, io.MultiWriter(f, h), limit)
	k.sum = hex.EncodeToString(h.Sum(nil))
	return err
}

// keep gives the file the name by which the build's fetch takes it.
func (k *kept) keep() error { return os.Rename(k.file, filepath.Join(k.partial, k.sum)) }

// close removes the file if it was not kept.
func (k *kept) close() { k.scratch.Close() }

// download writes what is at a URL to w and returns its size, bytes.
func download(ctx context.Context, servers *servers, from string, w io.Writer, limit int64) (int64, error) {
	u, err := url.Parse(from)
	if err != nil {
		return 0, err
	}
	r, err := fetch.Open(ctx, from, map[string]fetch.Reach{fetch.ServerOf(u): servers.to(ctx, u)})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", from, err)
	}
	defer r.Close()
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("is larger than %d bytes", limit)
	}
	if err != nil {
		return n, fmt.Errorf("%s: %w", from, err)
	}
	return n, nil
}

// verifySignature checks a detached signature: URL.sign or URL.asc of the file
// itself, or, as kernel.org has it, of the archive before compression.
func verifySignature(ctx context.Context, servers *servers, location, file, keyring string) error {
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
		if _, err := download(ctx, servers, try.url, &signature, 1<<20); err != nil {
			errs = append(errs, err)
			continue
		}
		return gpgv(ctx, file, try.compression, signature.Bytes(), keyring)
	}
	return fmt.Errorf("%s: there is no signature to check with the manifest's key:\n%w", location, errors.Join(errs...))
}

// gpgv checks a signature with the keys of a keyring, and nobody else's.
func gpgv(ctx context.Context, file, compression string, signature []byte, keyring string) error {
	keyring, err := filepath.Abs(keyring)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(file), "gpgv-") // the download's own
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
			return errors.New("gpgv is not installed, which checks signatures (Debian: apt install gpgv)")
		}
		if err != nil {
			return fmt.Errorf("the signature is not good for a key in %s: %s", keyring, strings.TrimSpace(string(out)))
		}
		return nil
	})
}
