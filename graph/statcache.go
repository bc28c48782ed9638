// This file remembers the digests of local files, so that an unchanged file is not read
// again.

package graph

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// statMinSize is the size in bytes from which the digest of a file is remembered.
// Reading a smaller file takes no longer than looking it up.
const statMinSize = 64 << 10

// statSettle is the age from which a file is remembered, measured when the stat cache
// was read. A younger file could change again within one tick of its change time. Git
// calls such entries "racily clean".
const statSettle = 2 * time.Second

// statMax is the number of files from which a stat cache forgets the files that this
// process did not ask for.
const statMax = 100_000

// statTree is the number of entries from which a directory is remembered as a whole.
// Describing a smaller one takes no longer than its fingerprint.
const statTree = 2000

// StatCache remembers the digests of large local files and directories by their stat
// data, as git's index does. A nil *StatCache remembers nothing. It is safe for
// concurrent use.
type StatCache struct {
	mu    sync.Mutex
	sums  map[statKey]string
	trees map[string][2]string // by the fingerprint's id: its sum, and the digest of the directory
	used  map[statKey]bool
	fresh bool // an entry was added since it was read
	now   time.Time
}

type statKey struct {
	dev, ino          uint64
	size              int64
	mtimeNS, changeNS int64
}

// ReadStatCache reads the file of [StatCache.Write]. A missing file, or a damaged line,
// only means that local files are read again.
func ReadStatCache(file string, now time.Time) *StatCache {
	m := &StatCache{sums: make(map[statKey]string), trees: make(map[string][2]string), used: make(map[statKey]bool), now: now}
	f, err := os.Open(file)
	if err != nil {
		return m
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) == 4 && f[0] == "tree" && len(f[1]) == 64 && len(f[2]) == 64 && len(f[3]) == len("sha256:")+64 {
			m.trees[f[1]] = [2]string{f[2], f[3]}
			continue
		}
		var k statKey
		var sum string
		if n, _ := fmt.Sscanf(s.Text(), "%d %d %d %d %d %64s", &k.dev, &k.ino, &k.size, &k.mtimeNS, &k.changeNS, &sum); n == 6 && len(sum) == 64 {
			m.sums[k] = sum
		}
	}
	return m
}

// Write stores the stat cache in file, if an entry was added since it was read. It writes
// a temporary file in scratch, a directory on the same file system, and renames it.
func (m *StatCache) Write(file, scratch string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.fresh {
		return nil
	}
	full := len(m.sums) > statMax
	f, err := os.CreateTemp(scratch, "stats-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	w := bufio.NewWriter(f)
	for k, sum := range m.sums {
		if !full || m.used[k] {
			fmt.Fprintf(w, "%d %d %d %d %d %s\n", k.dev, k.ino, k.size, k.mtimeNS, k.changeNS, sum)
		}
	}
	for id, t := range m.trees {
		fmt.Fprintf(w, "tree %s %s %s\n", id, t[0], t[1])
	}
	if err := w.Flush(); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// sum returns the sha256 of a regular file's content, in hexadecimal.
func (m *StatCache) sum(file string, st *syscall.Stat_t) (string, error) {
	k := statKey{st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
	worth := m != nil && st.Size >= statMinSize
	if worth {
		m.mu.Lock()
		s, ok := m.sums[k]
		m.used[k] = true
		m.mu.Unlock()
		if ok {
			return s, nil
		}
	}
	s, err := fileSum(file)
	if err == nil && worth && m.now.Sub(time.Unix(0, k.changeNS)) > statSettle {
		m.mu.Lock()
		m.sums[k], m.fresh = s, true
		m.mu.Unlock()
	}
	return s, err
}

// tree returns the remembered digest of a directory whose fingerprint is unchanged.
func (m *StatCache) tree(f fingerprint) (string, bool) {
	if m == nil {
		return "", false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.trees[f.id]
	return t[1], ok && t[0] == f.Sum
}

// rememberTree stores the digest of a directory that had the fingerprint f before it
// was read.
func (m *StatCache) rememberTree(f fingerprint, digest string) {
	if m == nil || f.Entries < statTree || m.now.Sub(time.Unix(0, f.Newest)) <= statSettle {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trees[f.id], m.fresh = [2]string{f.Sum, digest}, true
}

func fileSum(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
