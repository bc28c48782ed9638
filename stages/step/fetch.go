// This file downloads one file, or copies a layer that the parent process gets from
// a registry.

package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"meros/constellations"
	"meros/runner/debian"
	"meros/runner/fetch"
	"meros/runner/hint"
	"meros/stages"
)

// fetch downloads the file. The URLs are tried in order.
func (s *step) fetch(ctx context.Context) error {
	var urls []string
	if err := json.Unmarshal([]byte(s.Hints[stages.HintURLs]), &urls); err != nil {
		return err
	}
	size, err := strconv.ParseInt(s.Hints[stages.HintSize], 10, 64)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(urls, constellations.OfRegistry) {
		return s.output(stages.OutFile, func(f *os.File) error { // the parent process asks the registry
			_, err := io.Copy(&counted{Writer: f, total: size, report: s.report}, os.Stdin)
			return err
		})
	}
	servers, err := fetch.Reached()
	if err != nil {
		return err
	}
	last := time.Now()
	err = fetch.To(ctx, filepath.Join(s.Out, stages.OutFile), fetch.Options{
		URLs: urls, SHA256: strings.TrimPrefix(s.Hints[stages.HintDigest], "sha256:"), Size: size, Partial: "/partial", Servers: servers,
		Report: func(done, total int64) {
			if time.Since(last) > 200*time.Millisecond {
				last = time.Now()
				s.report(done, total)
			}
		},
	})
	if !errors.As(err, new(fetch.GoneError)) {
		return err
	}
	if slices.ContainsFunc(urls, func(u string) bool { return strings.HasSuffix(u, ".deb") || strings.HasSuffix(u, ".apk") }) {
		return hint.Add(err, "`meros update` pins the packages that the mirror has now\na snapshot service of Debian's packages, named by %s, may still have it", debian.SnapshotEnv)
	}
	return hint.Add(err, "the server no longer has the file that the manifest names")
}

// counted reports how much was written, and refuses more than total bytes.
type counted struct {
	io.Writer
	done, total int64
	last        time.Time
	report      func(done, total int64)
}

// Write implements io.Writer.
func (c *counted) Write(p []byte) (int, error) {
	if c.done += int64(len(p)); c.done > c.total {
		return 0, fmt.Errorf("larger than the %d bytes in the lock", c.total)
	}
	if time.Since(c.last) > 200*time.Millisecond {
		c.last = time.Now()
		c.report(c.done, c.total)
	}
	return c.Writer.Write(p)
}
