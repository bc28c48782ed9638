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

// maxEntry is how large an entry or a key text of a bundle may be, bytes.
const maxEntry = 16 << 20

// ErrNotOurs says that a member of an archive is nothing of a store.
var ErrNotOurs = errors.New("it is nothing of a store")

// WriteBundle writes artifacts and entries with their key texts to an archive,
// under the names that they have in a store, for [Store.ReadBundle] of another.
// What is not in the store it leaves out.
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

// ReadBundle takes a member of an archive into the store. It believes nothing:
// an artifact has to be what its name says, and an entry belongs to its key
// text. [ErrNotOurs] says that the member is something else. The store needs
// its scratch directory.
func (s *Store) ReadBundle(ctx context.Context, h *tar.Header, r io.Reader) error {
	dir, name := path.Split(h.Name)
	if h.Typeflag != tar.TypeReg || dir != "cas/" && dir != "actions/" {
		return ErrNotOurs
	}
	var err error
	if dir == "cas/" {
		err = s.readArtifact(ctx, name, r)
	} else if h.Size > maxEntry {
		err = errors.New("it is too large")
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
		return errors.New("its name is no digest")
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

// readEntry puts an entry only beside the key text that it belongs to, which
// comes before it.
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
			return errors.New("it is the key text of another action")
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
		return nil // what is here was made here
	}
	return s.writeFile(s.actionPath(id), b, 0o444)
}
