package graph

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"meros/cache"
)

// look is how a local directory looked, and which one it was.
type fingerprint struct {
	cache.Fingerprint
	id string // of the path and of what is skipped
}

func fingerprintTree(root string, skip []string) (fingerprint, error) {
	id := sha256.Sum256([]byte(root + "\x00" + strings.Join(skip, "\x00")))
	l, err := cache.FingerprintTree(root, func(name string) bool { return Skipped(name, skip) })
	return fingerprint{l, hex.EncodeToString(id[:])}, err
}
