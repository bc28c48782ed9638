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
	"meros/stages"
)

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
		return s.output(stages.OutFile, func(f *os.File) error { // see fetchesOfLayers
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
	if errors.As(err, new(fetch.GoneError)) {
		hint := "what the manifest names is gone from there"
		if slices.ContainsFunc(urls, func(u string) bool { return strings.HasSuffix(u, ".deb") || strings.HasSuffix(u, ".apk") }) {
			hint = fmt.Sprintf("what the lock pins is gone from there: meros update pins what there is now; a snapshot service of Debian's packages, named by %s, may have it", debian.SnapshotEnv)
		}
		err = fmt.Errorf("%w (%s)", err, hint)
	}
	return err
}

// counted reports how much was written.
type counted struct {
	io.Writer
	done, total int64
	last        time.Time
	report      func(done, total int64)
}

func (c *counted) Write(p []byte) (int, error) {
	if c.done += int64(len(p)); c.done > c.total {
		return 0, fmt.Errorf("it is larger than the %d bytes that the lock has", c.total)
	}
	if time.Since(c.last) > 200*time.Millisecond {
		c.last = time.Now()
		c.report(c.done, c.total)
	}
	return c.Writer.Write(p)
}
