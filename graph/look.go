package graph

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"meros/cache"
)

// look is how a local directory looked, and which one it was.
type look struct {
	cache.Look
	id string // of the path and of what is skipped
}

func lookAt(root string, skip []string) (look, error) {
	id := sha256.Sum256([]byte(root + "\x00" + strings.Join(skip, "\x00")))
	l, err := cache.LookAt(root, func(name string) bool { return Skipped(name, skip) })
	return look{l, hex.EncodeToString(id[:])}, err
}
