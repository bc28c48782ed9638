// This file identifies the state of a local directory by its stat data alone.

package graph

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"meros/cache"
)

// fingerprint is the fingerprint of a local directory, together with the identity
// of the directory.
type fingerprint struct {
	cache.Fingerprint
	id string // digest of the path and of the skip patterns
}

func fingerprintTree(root string, skip []string) (fingerprint, error) {
	id := sha256.Sum256([]byte(root + "\x00" + strings.Join(skip, "\x00")))
	f, err := cache.FingerprintTree(root, func(name string) bool { return Skipped(name, skip) })
	return fingerprint{f, hex.EncodeToString(id[:])}, err
}
