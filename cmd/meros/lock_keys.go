package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"meros/constellations"
)

// How a key says what it is.
var (
	armorBegin = []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----")
	pemBegin   = []byte("-----BEGIN PUBLIC KEY-----") // Alpine's
	keybox     = []byte("KBXf")                       // at keyboxAt
)

const keyboxAt = 8

// keyringsFor are files in dir, where apt's own user can read them, with all
// the keys that the manifest has for a section; none if it has none. Keys of
// Alpine, which a manifest may have for all of its machines, are left out.
func keyringsFor(e *env, m *constellations.Manifest, s constellations.Section, dir string) ([]string, error) {
	var files []string
	for i := range m.Machines {
		vm := &m.Machines[i]
		if vm.Section() != s {
			continue
		}
		of, err := keyFiles(e.root, m, vm)
		if err != nil {
			return nil, err
		}
		for _, f := range of {
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

// keyrings are OpenPGP keys in the two forms that apt tells apart by the names
// of files, apt-key(8).
type keyrings struct {
	binary  []byte
	armored [][]byte
}

// add reads a file, whatever its name.
func (k *keyrings) add(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	switch i := bytes.Index(b, armorBegin); {
	case len(bytes.TrimSpace(b)) == 0: // else the distribution's keys would stand in for it
		return fmt.Errorf("%s has no key in it (gpg --export KEY >FILE makes a keyring)", file)
	case i >= 0:
		// apt reads only the first of several in one file.
		for _, block := range bytes.Split(b[i+len(armorBegin):], armorBegin) {
			k.armored = append(k.armored, slices.Concat(armorBegin, block))
		}
	case bytes.Contains(b, pemBegin):
	case len(b) >= keyboxAt && bytes.HasPrefix(b[keyboxAt:], keybox):
		return fmt.Errorf("%s is a keybox, which apt does not read (gpg --no-default-keyring --keyring %s --export >FILE makes a keyring of it)", file, file)
	default:
		k.binary = append(k.binary, b...)
	}
	return nil
}

// write gives the files that it makes in dir.
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
