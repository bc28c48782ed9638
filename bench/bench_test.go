// Package bench measures what meros promises, always against a peer or a
// limit measured in the same run: "just bench". The numbers are ratios first;
// seconds are this machine's.
package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// base is what the machines here are made of: packages enough for an image of
// 200 MB that boots.
const base = "{suite: bookworm, packages: [systemd-sysv, udev, dbus, openssh-server, iproute2]}"

// program builds meros as a user has it.
func program(b *testing.B) string {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("needs root: the peers do")
	}
	file := filepath.Join(b.TempDir(), "meros")
	cmd := exec.Command("go", "build", "-o", file, "../cmd/meros")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	return file
}

// project is a root directory with constellations, by name.
func project(b *testing.B, manifests map[string]string) string {
	b.Helper()
	root := b.TempDir()
	for name, text := range manifests {
		write(b, filepath.Join(root, "constellations", name, "manifest.yml"), text)
	}
	return root
}

func write(b *testing.B, file, text string) {
	b.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
}

// event is a line of --progress=json.
type event struct {
	Event, Node, Stage, Text string
	Seconds, T               float64
}

// outcome is one run of meros.
type outcome struct {
	wall   time.Duration
	maxRSS int64 // bytes
	ran    []event
}

// stage is how long the stage's nodes took, together, and when the last ended.
func (o *outcome) stage(name string) (seconds, ended float64) {
	for _, e := range o.ran {
		if e.Stage == name {
			seconds, ended = seconds+e.Seconds, max(ended, e.T)
		}
	}
	return seconds, ended
}

func meros(b *testing.B, program, root string, args ...string) *outcome {
	b.Helper()
	cmd := exec.Command(program, append([]string{"--root", root, "--progress=json"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	start := time.Now()
	err := cmd.Run()
	o := &outcome{wall: time.Since(start)}
	if err != nil {
		b.Fatalf("meros %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	o.maxRSS = cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	for s := bufio.NewScanner(&stderr); s.Scan(); {
		var e event
		if json.Unmarshal(s.Bytes(), &e) == nil && e.Event == "ran" {
			o.ran = append(o.ran, e)
		}
	}
	return o
}

// downloaded is a project in which all packages are fetched and nothing else
// is done. The archives are asked once for all benchmarks.
func downloaded(b *testing.B, program, manifest string) string {
	b.Helper()
	root := project(b, map[string]string{"lab": manifest})
	seedRoot := filepath.Join(os.TempDir(), fmt.Sprintf("meros-bench-%d", os.Getuid()))
	seed := filepath.Join(seedRoot, "constellations", "lab", "manifest.yml")
	if fi, err := os.Stat(filepath.Join(filepath.Dir(seed), "meros.lock")); err != nil || time.Since(fi.ModTime()) > 12*time.Hour {
		os.RemoveAll(seedRoot)
		write(b, seed, "virtual_machines:\n  m0: "+base+"\n")
		meros(b, program, seedRoot, "build", "lab")
	}
	lock, err := os.ReadFile(filepath.Join(filepath.Dir(seed), "meros.lock"))
	if err != nil {
		b.Fatal(err)
	}
	write(b, filepath.Join(root, "constellations", "lab", "meros.lock"), string(lock))
	for _, sum := range lockedDigests(lock) {
		from := filepath.Join(seedRoot, "data", "cache", "cas", sum[:2], sum)
		to := filepath.Join(root, "data", "cache", "cas", sum[:2], sum)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.Link(from, to); err != nil {
			b.Fatal(err)
		}
	}
	return root
}

// lockedDigests are the digests of the packages in a lock.
func lockedDigests(lock []byte) (sums []string) {
	for line := range strings.Lines(string(lock)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "package" {
			sums = append(sums, f[len(f)-1])
		}
	}
	return sums
}

func machines(n int) string {
	var s strings.Builder
	s.WriteString("virtual_machines:\n")
	for i := range n {
		fmt.Fprintf(&s, "  m%d: %s\n", i, base)
	}
	return s.String()
}

// allocated is the room that files take on the disk, bytes, each inode once.
func allocated(b *testing.B, dir string) int64 {
	b.Helper()
	seen := make(map[uint64]bool)
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if st := fi.Sys().(*syscall.Stat_t); !seen[st.Ino] {
			seen[st.Ino] = true
			sum += st.Blocks * 512
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return sum
}

func run(b *testing.B, name string, args ...string) time.Duration {
	b.Helper()
	start := time.Now()
	cmd := exec.CommandContext(context.Background(), name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", name, err, out)
	}
	return time.Since(start)
}

// samples are the measurements of a benchmark's runs.
type samples map[string][]float64

func (s samples) add(unit string, value float64) { s[unit] = append(s[unit], value) }

// report gives the median of each unit.
func (s samples) report(b *testing.B) {
	for unit, values := range s {
		slices.Sort(values)
		b.ReportMetric(values[len(values)/2], unit)
	}
}
