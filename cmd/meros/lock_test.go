// This file tests that processes share the file of a lock, and what it retains.

package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"meros/bench/lab"
	"meros/constellations"
	"meros/stages"
)

// lockServer serves an archive for each machine of a constellation. A request for
// the archive of the machine "one" waits.
type lockServer struct {
	*httptest.Server
	asked   chan bool // gets a value when that request arrives
	release chan bool // a value lets it go on
}

func newLockServer(t *testing.T) *lockServer {
	s := &lockServer{asked: make(chan bool), release: make(chan bool)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/one.tar.gz" {
			s.asked <- true
			select {
			case <-s.release:
			case <-r.Context().Done():
			}
		}
		fmt.Fprint(w, r.URL.Path)
	}))
	t.Cleanup(s.Close)
	return s
}

// sourceLine returns the line of the lock for a machine's archive.
func (s *lockServer) sourceLine(machine string) string {
	name := "/" + machine + ".tar.gz"
	return fmt.Sprintf("source tarball %s%s %d %x\n", s.URL, name, len(name), sha256.Sum256([]byte(name)))
}

// project returns a project whose lock pins everything. Its pins of the kernels'
// sources are out of date.
func (s *lockServer) project(t *testing.T) *lab.Project {
	t.Helper()
	p := lab.New(t, map[string]string{"constellations/c/manifest.yml": fmt.Sprintf("virtual_machines:\n  one: {kernel: {source: '%[1]s/one.tar.gz'}}\n  two: {kernel: {source: '%[1]s/two.tar.gz'}}\n", s.URL)})
	m, err := constellations.Find(p.Root, "c")
	if err != nil {
		t.Fatal(err)
	}
	sum := strings.Repeat("0", 64)
	some := []constellations.Package{{Name: "base-files", Version: "1", Arch: "amd64", Archive: "debian", Filename: "pool/b.deb", Size: 1, SHA256: sum}}
	lock := new(constellations.Lock)
	for _, n := range lock.Unpinned(stages.AllNeeds(m)) {
		switch section := lock.Section(n.Section); {
		case lock.Pins(n):
		case n.Source != nil:
			old := *n.Source
			old.Size, old.SHA256 = 1, sum
			lock.Sources = append(lock.Sources, old)
		case len(n.Packages) > 0:
			section.Sets = append(section.Sets, constellations.PackageSet{Names: n.Packages, Packages: some})
		default:
			lock.Sections = append(lock.Sections, constellations.SectionLock{Distribution: n.Distribution, Suite: n.Suite, Arch: n.Arch, Date: time.Unix(1e9, 0), Base: some})
		}
	}
	if err := constellations.WriteLock(lockFile(m), lock); err != nil {
		t.Fatal(err)
	}
	return p
}

// started is a running `meros update`.
type started struct {
	*exec.Cmd
	waits chan bool  // gets true when the process waits for another; closed when it ends
	ended chan error // gets the result of the process
}

func startUpdate(t *testing.T, p *lab.Project, machine string) *started {
	t.Helper()
	s := &started{Cmd: p.Command(t, "update", "c", machine, "--kernel"), waits: make(chan bool, 1), ended: make(chan error, 1)}
	stderr, err := s.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if strings.Contains(lines.Text(), "waiting: another meros changes "+p.Path("constellations/c/meros.lock")) {
				s.waits <- true
			}
		}
		close(s.waits)
		s.ended <- s.Wait()
	}()
	t.Cleanup(func() { s.Process.Kill() })
	return s
}

// within returns a value from c. The test fails if there is none in time.
func within[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(lab.Timeout(t, time.Minute)):
		t.Fatal("timeout")
		panic("unreachable")
	}
}

// If two processes change a lock at the same time, both keep the pins of the
// other.
func TestLockTwice(t *testing.T) {
	s := newLockServer(t)
	p := s.project(t)
	one := startUpdate(t, p, "one")
	within(t, s.asked)
	two := startUpdate(t, p, "two")
	if !within(t, two.waits) {
		t.Error("the second process does not wait")
	}
	s.release <- true
	for _, c := range []*started{one, two} {
		if err := within(t, c.ended); err != nil {
			t.Error(err)
		}
	}
	lock := readFile(t, p.Path("constellations/c/meros.lock"))
	for _, machine := range []string{"one", "two"} {
		if !strings.Contains(lock, s.sourceLine(machine)) {
			t.Errorf("the pin of %s is lost:\n%s", machine, lock)
		}
	}
}

// A process that waits for a lock can be interrupted. It continues when the holder
// is killed.
func TestLockHeld(t *testing.T) {
	s := newLockServer(t)
	p := s.project(t)
	one := startUpdate(t, p, "one")
	within(t, s.asked)
	two := startUpdate(t, p, "two")
	within(t, two.waits)
	two.Process.Signal(syscall.SIGTERM)
	within(t, two.ended)
	if code := two.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("the interrupted process ends with status %d, want %d", code, exitInterrupted)
	}
	again := startUpdate(t, p, "two")
	within(t, again.waits)
	one.Process.Kill()
	if err := within(t, again.ended); err != nil {
		t.Error(err)
	}
	if lock := readFile(t, p.Path("constellations/c/meros.lock")); !strings.Contains(lock, s.sourceLine("two")) {
		t.Errorf("the lock has no pin of two:\n%s", lock)
	}
	// The next build removes their unfinished files, even if it fails.
	p.Write(t, "constellations/c/.meros.lock-123", "meros-l")
	p.Write(t, "constellations/c/manifest.yml", "virtual_machines:\n  one: {base: nowhere.qcow2}\n")
	fails(t, p.Run(t, "build", "c", "--rootfs-only", "--locked"), 1, "nowhere.qcow2 does not exist")
	leftovers(t, p)
	for _, pattern := range []string{"constellations/c/.*", "data/cache/.*", "data/cache/partial/*"} {
		if left, _ := filepath.Glob(p.Path(pattern)); len(left) > 0 && filepath.Base(left[0]) != strings.Fields(s.sourceLine("two"))[4] {
			t.Errorf("left behind: %q", left)
		}
	}
}

// writeLock retains the pins for the manifest that was read, for the manifest as it
// is now, and for images of --use. It drops all others.
func TestWriteLockPrunes(t *testing.T) {
	s := newLockServer(t)
	p := s.project(t)
	m, err := constellations.Find(p.Root, "c")
	if err != nil {
		t.Fatal(err)
	}
	p.Write(t, "constellations/c/manifest.yml", "virtual_machines:\n  new: {kernel: {source: '"+s.URL+"/new.tar.gz'}}\n")
	lock, err := readLock(m)
	if err != nil {
		t.Fatal(err)
	}
	sum := strings.Repeat("0", 64)
	for kind, name := range map[constellations.KernelKind][]string{constellations.KernelTarball: {"new", "gone"}, constellations.SourceImage: {"used"}} {
		for _, n := range name {
			lock.Sources = append(lock.Sources, constellations.Source{Kind: kind, URL: s.URL + "/" + n + ".tar.gz", Size: 1, SHA256: sum})
		}
	}
	e := &env{ctx: t.Context(), project: project{p.Root}, ui: newUI(io.Discard, io.Discard, "plain", false)}
	if err := writeLock(e, m, lock); err != nil {
		t.Fatal(err)
	}
	if lock, err = readLock(m); err != nil {
		t.Fatal(err)
	}
	var retained []string
	for _, source := range lock.Sources {
		retained = append(retained, strings.TrimSuffix(path.Base(source.URL), ".tar.gz"))
	}
	slices.Sort(retained)
	if want := []string{"new", "one", "two", "used"}; !slices.Equal(retained, want) {
		t.Errorf("the lock has %q, want %q", retained, want)
	}
}
