// This file records pins: named lists of artifacts that a user wants to retain. It does
// not protect them: the caller of [Store.Collect] hands them in as roots.

package cache

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
)

// ErrNoPin is the error of [Store.Unpin] for an unknown name.
var ErrNoPin = errors.New("there is no pin of that name")

// pinFile returns the path of a pin. The name may contain slashes.
func (s *Store) pinFile(name string) string {
	return filepath.Join(s.dir, "pins", strings.ReplaceAll(name, "/", ":"))
}

// Pin records artifacts under a name, until [Store.Unpin]. It replaces a pin of the
// same name. The name has no colon and begins with a letter or a digit.
func (s *Store) Pin(name string, artifacts []digest.Digest) error {
	var b bytes.Buffer
	for _, d := range artifacts {
		fmt.Fprintln(&b, d)
	}
	if err := s.writeFile(s.pinFile(name), b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("pin %s: %w", name, err)
	}
	return nil
}

// Unpin removes a pin. The error is [ErrNoPin] if there is no such pin.
func (s *Store) Unpin(name string) error {
	err := os.Remove(s.pinFile(name))
	if errors.Is(err, os.ErrNotExist) {
		err = ErrNoPin
	}
	if err != nil {
		return fmt.Errorf("unpin %s: %w", name, err)
	}
	return nil
}

// Pins returns the pinned artifacts, by the names of the pins.
func (s *Store) Pins() (map[string][]digest.Digest, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "pins"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read pins: %w", err)
	}
	pins := make(map[string][]digest.Digest)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(s.dir, "pins", e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read pins: %w", err)
		}
		all := []digest.Digest{}
		for l := range strings.FieldsSeq(string(b)) {
			if d := digest.Digest(l); d.Validate() == nil {
				all = append(all, d)
			}
		}
		pins[strings.ReplaceAll(e.Name(), ":", "/")] = all
	}
	return pins, nil
}
