// This file copies artifacts and entries between stores, through tar archives.

package cache

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
)

// maxEntry is the largest entry or key text that a bundle may have, in bytes.
const maxEntry = 16 << 20

// ErrNotOurs is the error for a member of an archive that does not belong to a store.
var ErrNotOurs = errors.New("does not belong to a cache")

// WriteBundle writes artifacts, and entries with their key texts, to an archive for
// another store's [Store.ReadBundle]. It leaves out those that are not in the store.
func (s *Store) WriteBundle(ctx context.Context, w *tar.Writer, artifacts []Artifact, actions []ActionID) error {
	for _, a := range artifacts {
		if s.Has(a) != nil {
			continue
		}
		if err := s.bundleFile(ctx, w, "cas/"+a.Digest.Encoded(), s.Path(a.Digest)); err != nil {
			return fmt.Errorf("bundle %s: %w", short(a.Digest), err)
		}
	}
	for _, id := range actions {
		if _, err := s.Lookup(id); err != nil {
			continue
		}
		for _, ending := range []string{".key", ""} {
			if err := s.bundleFile(ctx, w, "actions/"+id.Hex()+ending, s.actionPath(id)+ending); err != nil {
				return fmt.Errorf("bundle action %s: %w", id, err)
			}
		}
	}
	return nil
}

func (s *Store) bundleFile(ctx context.Context, w *tar.Writer, name, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o444, Size: fi.Size(), Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.Copy(w, ctxReader{ctx, f})
	return err
}

// ReadBundle takes one member of an archive into the store. An artifact must have the
// digest in its name, and an entry must come after its key text. ReadBundle cannot check
// that the outputs of an entry really are those of its action. The error is
// [ErrNotOurs] if the member does not belong to a store. The store needs a scratch
// directory.
func (s *Store) ReadBundle(ctx context.Context, h *tar.Header, r io.Reader) error {
	dir, name := path.Split(h.Name)
	if h.Typeflag != tar.TypeReg || dir != "cas/" && dir != "actions/" {
		return ErrNotOurs
	}
	var err error
	if dir == "cas/" {
		err = s.readArtifact(ctx, name, r)
	} else if h.Size > maxEntry {
		err = fmt.Errorf("%d bytes are too large, at most %d are allowed", h.Size, maxEntry)
	} else {
		err = s.readEntry(name, r)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", h.Name, err)
	}
	return nil
}

func (s *Store) readArtifact(ctx context.Context, name string, r io.Reader) error {
	want := digest.NewDigestFromEncoded(digest.SHA256, name)
	if err := want.Validate(); err != nil {
		return errors.New("its name is not a digest")
	}
	f, err := os.CreateTemp(s.tmp, "i-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	v := want.Verifier()
	if _, err := io.Copy(io.MultiWriter(f, v), ctxReader{ctx, r}); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	if !v.Verified() {
		return errors.New("its content has another digest")
	}
	_, err = s.Put(ctx, f.Name())
	return err
}

// readEntry stores a key text, or an entry. An entry is stored only if its key text
// has come before it.
func (s *Store) readEntry(name string, r io.Reader) error {
	hex, isKey := strings.CutSuffix(name, ".key")
	id, err := ParseActionID(hex)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxEntry))
	if err != nil {
		return err
	}
	if isKey {
		if NewActionID(b) != id {
			return errors.New("the key text of another action")
		}
		return s.writeFile(s.actionPath(id)+".key", b, 0o444)
	}
	if _, err := s.KeyText(id); err != nil {
		return err
	}
	if _, err := decodeEntry(id, b); err != nil {
		return err
	}
	if _, err := s.Lookup(id); err == nil {
		return nil // the local entry was made here
	}
	return s.writeFile(s.actionPath(id), b, 0o444)
}
