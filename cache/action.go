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

// ActionID is the digest of a key text. It is a type of its own, so that what
// a stage was asked to do is never mistaken for what it gave.
type ActionID struct{ d digest.Digest }

// NewActionID is the id of a key text.
func NewActionID(keyText []byte) ActionID { return ActionID{digest.FromBytes(keyText)} }

// Hex is the id as 64 lower-case hexadecimal digits.
func (a ActionID) Hex() string { return a.d.Encoded() }

// String is the short form for people, 12 digits.
func (a ActionID) String() string {
	if a.IsZero() {
		return "" // of a fetch, which its output's digest stands for
	}
	return short(a.d)
}

// IsZero tells whether the id was ever set.
func (a ActionID) IsZero() bool { return a.d == "" }

// Entry is what the store remembers of an action that succeeded.
type Entry struct {
	Outputs  map[string]Artifact `json:"outputs"`
	Log      *Artifact           `json:"log,omitempty"`
	Node     string              `json:"node"` // as the plan called it, for people
	Stage    string              `json:"stage"`
	Duration time.Duration       `json:"duration_ns"`
	Made     time.Time           `json:"made"`
}

// entryFile is an entry on disk: with a digest of itself, because a flipped
// bit in an output's digest would otherwise be a different, valid answer.
type entryFile struct {
	Entry json.RawMessage `json:"entry"`
	Sum   digest.Digest   `json:"sum"`
}

func (s *Store) actionPath(id ActionID) string {
	h := id.Hex()
	return filepath.Join(s.dir, "actions", h[:2], h)
}

// Lookup returns the action's entry, or a *[Miss] that says why there is
// none. It does not look at the outputs: that is [Store.Has].
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

// damaged is what of the entry names no artifact, or "".
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

// Record stores the entry and the key text it belongs to, which must be the
// one the id was made of. The outputs must be in the store already.
func (s *Store) Record(id ActionID, keyText []byte, e Entry) error {
	if NewActionID(keyText) != id {
		return fmt.Errorf("record action %s: the key text is another action's", id)
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

// KeyText returns the stored key text of an action.
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

// ParseActionID reads the 64 digits that [ActionID.Hex] wrote.
func ParseActionID(hex string) (ActionID, error) {
	d := digest.NewDigestFromEncoded(digest.SHA256, hex)
	if err := d.Validate(); err != nil {
		return ActionID{}, fmt.Errorf("action id %q: %w", hex, err)
	}
	return ActionID{d}, nil
}
