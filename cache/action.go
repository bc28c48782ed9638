// This file is the index: entries of actions and their key texts, by action key.

package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
)

// ActionID is the digest of a key text. It has its own type, so that nobody mistakes
// the key of an action for the digest of an artifact.
type ActionID struct{ d digest.Digest }

// NewActionID returns the id of a key text.
func NewActionID(keyText []byte) ActionID { return ActionID{digest.FromBytes(keyText)} }

// Hex returns the id as 64 lower-case hexadecimal digits.
func (a ActionID) Hex() string { return a.d.Encoded() }

// String returns the short form for people, 12 digits, or "" for the zero id.
func (a ActionID) String() string {
	if a.IsZero() {
		return "" // a fetch, identified by the digest of its output
	}
	return short(a.d)
}

// IsZero reports whether the id was never set.
func (a ActionID) IsZero() bool { return a.d == "" }

// Entry is the record of an action that succeeded.
type Entry struct {
	Outputs  map[string]Artifact `json:"outputs"`
	Log      *Artifact           `json:"log,omitempty"`
	Node     string              `json:"node"` // its name in the plan, for people
	Stage    string              `json:"stage"`
	Duration time.Duration       `json:"duration_ns"`
	Made     time.Time           `json:"made"`
}

// entryFile is an entry on disk. It has a digest of itself: without it, a flipped bit
// in an output's digest would be a different, valid answer.
type entryFile struct {
	Entry json.RawMessage `json:"entry"`
	Sum   digest.Digest   `json:"sum"`
}

func (s *Store) actionPath(id ActionID) string {
	h := id.Hex()
	return filepath.Join(s.dir, "actions", h[:2], h)
}

// Lookup returns the action's entry, or a *[Miss] with the reason why there is none.
// It does not check the outputs: see [Store.Has].
func (s *Store) Lookup(id ActionID) (*Entry, error) {
	b, err := os.ReadFile(s.actionPath(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, miss("never built with this key")
	}
	if err != nil {
		return nil, miss("entry %s: %v", id, err)
	}
	return decodeEntry(id, b)
}

func decodeEntry(id ActionID, b []byte) (*Entry, error) {
	var f entryFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, miss("entry %s is damaged: %v", id, err)
	}
	if digest.FromBytes(f.Entry) != f.Sum {
		return nil, miss("entry %s is damaged: its checksum differs", id)
	}
	e := new(Entry)
	if err := json.Unmarshal(f.Entry, e); err != nil {
		return nil, miss("entry %s is damaged: %v", id, err)
	}
	if bad := e.damaged(); bad != "" {
		return nil, miss("entry %s is damaged: %s", id, bad)
	}
	return e, nil
}

// damaged returns the part of the entry that does not name an artifact, or "".
func (e *Entry) damaged() string {
	for name, a := range e.Outputs {
		if !valid(a.Digest) || a.Size < 0 {
			return "output " + name
		}
	}
	if e.Log != nil && !valid(e.Log.Digest) {
		return "its log"
	}
	return ""
}

// Record stores an entry and its key text. The id must be the digest of the key text.
// The outputs must be in the store already.
func (s *Store) Record(id ActionID, keyText []byte, e Entry) error {
	if NewActionID(keyText) != id {
		return fmt.Errorf("record action %s: the key text belongs to another action", id)
	}
	e.Made = s.now().UTC().Truncate(time.Second)
	raw, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("record action %s: %w", id, err)
	}
	b, err := json.Marshal(entryFile{raw, digest.FromBytes(raw)})
	if err != nil {
		return fmt.Errorf("record action %s: %w", id, err)
	}
	if err := s.writeFile(s.actionPath(id)+".key", keyText, 0o444); err != nil {
		return fmt.Errorf("record action %s: %w", id, err)
	}
	if err := s.writeFile(s.actionPath(id), append(b, '\n'), 0o444); err != nil {
		return fmt.Errorf("record action %s: %w", id, err)
	}
	return nil
}

// KeyText returns the stored key text of an action, or a *[Miss].
func (s *Store) KeyText(id ActionID) ([]byte, error) {
	b, err := os.ReadFile(s.actionPath(id) + ".key")
	if err != nil {
		return nil, miss("key text of %s: %v", id, err)
	}
	if NewActionID(b) != id {
		return nil, miss("key text of %s is damaged", id)
	}
	return b, nil
}

// ParseActionID parses the 64 digits of [ActionID.Hex].
func ParseActionID(hex string) (ActionID, error) {
	d := digest.NewDigestFromEncoded(digest.SHA256, hex)
	if err := d.Validate(); err != nil {
		return ActionID{}, fmt.Errorf("action id %q: %w", hex, err)
	}
	return ActionID{d}, nil
}
