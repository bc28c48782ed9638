// This file tests builds that are interrupted, damaged or short of disk space.

package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"meros/bench/lab"
)

// lineWatcher collects the output of a command and calls see for each line.
type lineWatcher struct {
	mu   sync.Mutex
	text bytes.Buffer
	see  func(line string)
}

func (w *lineWatcher) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(b)
	for line := range strings.Lines(string(b)) {
		w.see(line)
	}
	return len(b), nil
}

// interruptAt runs meros and sends it a signal when a node of the stage starts.
// It returns the state of the ended process and its messages.
func interruptAt(t *testing.T, p *lab.Project, stage string, sig syscall.Signal, args ...string) (*os.ProcessState, string) {
	t.Helper()
	cmd := p.Command(t, args...)
	// In its own process group only meros gets the signal, and has to end its
	// children itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	sent := false
	w := &lineWatcher{}
	w.see = func(line string) {
		if !sent && strings.Contains(line, `"event":"started"`) && strings.Contains(line, `"stage":"`+stage+`"`) {
			sent = true
			time.AfterFunc(30*time.Millisecond, func() { cmd.Process.Signal(sig) })
		}
	}
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if !sent {
		t.Fatalf("no node of stage %s started:\n%s", stage, w.text.String())
	}
	return cmd.ProcessState, w.text.String()
}

// busyFiles are the files of a constellation that runs every stage except fetch.
var busyFiles = map[string]string{
	"manifest.yml":               bootableManifest,
	"m/includes.chroot/etc/motd": "hello\n",
	"m/hooks/0100-x.chroot":      "#!/bin/sh\nsleep 0.2\necho hook > /etc/hook\n",
}

// TestInterruptedAnywhere interrupts and kills builds in every stage. The next
// build must continue and make the same disk as an undisturbed build.
func TestInterruptedAnywhere(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	write := func(p *lab.Project) {
		for name, text := range busyFiles {
			p.Write(t, "constellations/busy/"+name, text)
		}
	}
	calm := lab.Downloaded(t, "busy")
	write(calm)
	calm.Must(t, "build", "busy")
	want := disk(t, calm, "busy-m")

	p := lab.Downloaded(t, "busy")
	write(p)
	for _, stage := range []string{"bootstrap", "packages", "kernel", "initrd", "pack", "overlay", "hooks", "personalize", "delta", "disk", "boot"} {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
			removeResults(t, p, stage)
			st, text := interruptAt(t, p, stage, sig, "build", "busy", "-j1", "--boot")
			if sig == syscall.SIGINT {
				// The signal may come too late for a last stage of a few milliseconds.
				if st.ExitCode() != exitInterrupted && st.ExitCode() != 0 {
					t.Errorf("%s: exit status %d after SIGINT\n%s", stage, st.ExitCode(), text)
				}
				leftovers(t, p)
			}
			settled(t, p.Root)
		}
	}
	p.Must(t, "build", "busy")
	leftovers(t, p)
	if got := disk(t, p, "busy-m"); got != want {
		t.Errorf("the disk is %s, an undisturbed build makes %s", got, want)
	}
}

// TestInterruptedFetch checks that an interrupted download ends at once and that
// the next build continues it.
func TestInterruptedFetch(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	content := strings.Repeat("0123456789abcdef", 4096)
	var hangs atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !hangs.Load() {
			http.ServeContent(w, r, "x.deb", time.Time{}, strings.NewReader(content))
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		io.WriteString(w, content[:1000])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	p := lab.New(t, map[string]string{
		"constellations/far/manifest.yml": "virtual_machines:\n  m: {suite: bookworm, mirror: '" + server.URL + "'}\n",
		"constellations/far/meros.lock":   pinnedLock(server.URL, content),
	})
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		hangs.Store(true)
		st, text := interruptAt(t, p, "fetch", sig, "build", "far", "--rootfs-only")
		if sig == syscall.SIGINT {
			if st.ExitCode() != exitInterrupted {
				t.Errorf("exit status %d after SIGINT\n%s", st.ExitCode(), text)
			}
			leftovers(t, p)
		}
		settled(t, p.Root)
	}
	hangs.Store(false)
	// The file is not a package, so the build fails after the download.
	fails(t, p.Run(t, "build", "far", "--rootfs-only"), 1, "is not an ar archive")
	leftovers(t, p)
}

// removeResults removes the results of a stage from the cache.
func removeResults(t *testing.T, p *lab.Project, stage string) {
	t.Helper()
	err := filepath.WalkDir(p.Path("data/cache/actions"), func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		b, err := os.ReadFile(file)
		if err == nil && bytes.Contains(b, []byte(`"stage":"`+stage+`"`)) {
			return os.Remove(file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// settled waits until no process mentions the project's root in its command line.
func settled(t *testing.T, root string) {
	t.Helper()
	for end := time.Now().Add(lab.Timeout(t, time.Minute)); ; time.Sleep(20 * time.Millisecond) {
		left := processes(t, root)
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still running: %q", left)
		}
	}
}

// TestTwoBuilders checks that two builds at the same time run each stage once.
func TestTwoBuilders(t *testing.T) {
	lab.Long(t)
	p := shared(t, "twice", map[string]string{"m/hooks/01-slow.chroot": "#!/bin/sh\nsleep 1\necho x > /etc/x\n"})
	var outcomes [2]*lab.Outcome
	var wg sync.WaitGroup
	for i := range outcomes {
		wg.Go(func() { outcomes[i] = p.Run(t, "build", "twice") })
	}
	wg.Wait()
	ran := make(map[string]int)
	for _, o := range outcomes {
		if o.Exit != 0 {
			t.Errorf("exit status %d\n%s", o.Exit, o.Stderr)
		}
		for _, n := range o.Ran() {
			ran[n]++
		}
	}
	if ran["twice/m hooks"] != 1 {
		t.Errorf("the hook ran %d times", ran["twice/m hooks"])
	}
	for n, times := range ran {
		if times != 1 {
			t.Errorf("%s ran %d times", n, times)
		}
	}
	leftovers(t, p)
}

// TestFlippedByte flips a bit in each stored file in turn. The next build must
// make the same disk again.
func TestFlippedByte(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	p := lab.Downloaded(t, "flipped") // not lab.Built, whose cache shares files that this test damages
	for name, text := range map[string]string{"manifest.yml": plain, "m/includes.chroot/etc/motd": "hello\n", "m/hooks/01-x.chroot": "#!/bin/sh\necho x > /etc/x\n"} {
		p.Write(t, "constellations/flipped/"+name, text)
	}
	p.Must(t, "build", "flipped")
	want := disk(t, p, "flipped-m")
	outputs := make(map[string]string) // file to node
	entries, err := filepath.Glob(p.Path("data/cache/actions/*/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e, ".key") {
			continue
		}
		b, err := os.ReadFile(e)
		if err != nil {
			t.Fatal(err)
		}
		node := between(string(b), `"node":"`, `"`)
		if !strings.HasPrefix(node, "flipped/") && !strings.HasPrefix(node, "bookworm") {
			continue
		}
		outputs[e] = "entry of " + node
		for rest := string(b); strings.Contains(rest, `"digest":"sha256:`); {
			sum := between(rest, `"digest":"sha256:`, `"`)
			rest = rest[strings.Index(rest, sum):]
			outputs[p.Path("data/cache/cas/"+sum[:2]+"/"+sum)] = "output of " + node
		}
	}
	if len(outputs) < 15 {
		t.Fatalf("only %d files to damage", len(outputs))
	}
	for file, what := range outputs {
		flip(t, file)
		o := p.Run(t, "build", "flipped")
		if o.Exit != 0 {
			t.Errorf("%s: exit status %d\n%s", what, o.Exit, o.Stderr)
			continue
		}
		if got := disk(t, p, "flipped-m"); got != want {
			t.Errorf("%s: the disk is different", what)
		}
	}
	// The delivered image as well.
	flip(t, p.Path("data/disks/flipped-m.qcow2"))
	o := p.Must(t, "build", "flipped")
	if got := disk(t, p, "flipped-m"); got != want || len(o.Ran()) != 1 {
		t.Errorf("the damaged image was not made again: ran %q", o.Ran())
	}
}

func between(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, after)
	return s
}

// flip inverts a bit in the middle of a file.
func flip(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if os.IsNotExist(err) {
		return // another output replaced this one
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, fi.Size()/2); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, fi.Size()/2); err != nil {
		t.Fatal(err)
	}
}

// inSmallData runs a shell script in a mount namespace in which the project's
// data directory is a tmpfs of the given size. In the script $MEROS is the path
// of the program.
func inSmallData(t *testing.T, p *lab.Project, size, script string) *lab.Outcome {
	t.Helper()
	lab.NeedRoot(t)
	if err := os.MkdirAll(p.Path("data"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `set -e
mount --make-rprivate /
cp -r data/cache/cas "$SEED"
mount -t tmpfs -o size="$SIZE" data data
mkdir -p data/cache; cp -r --preserve=timestamps "$SEED" data/cache/cas
set +e
`+script)
	cmd.Dir = p.Root
	cmd.Env = append(os.Environ(), "MEROS="+lab.Program(t), "SIZE="+size, "SEED="+filepath.Join(t.TempDir(), "cas"))
	return lab.Finish(t, cmd)
}

// TestDiskFull fills the disk during different stages. meros must report the full
// disk, and must finish the build when there is free space again.
func TestDiskFull(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	for size, stage := range map[string]string{"150M": "bootstrap", "420M": "image"} {
		t.Run(size, func(t *testing.T) {
			p := lab.Downloaded(t, "full")
			p.Write(t, "constellations/full/manifest.yml", plain)
			o := inSmallData(t, p, size, `"$MEROS" --progress=plain build full --rootfs-only; echo "first: $?"
mount -o remount,size=4G data
"$MEROS" --progress=plain build full --rootfs-only; echo "second: $?"; ls data/cache/build | wc -l`)
			if !strings.Contains(o.Stdout, "first: 1") || !strings.Contains(o.Stdout, "second: 0") {
				t.Errorf("the first build must fail and the second succeed:\n%s\n%s", o.Stdout, o.Stderr)
			}
			if !strings.Contains(o.Stderr, "no space left on device") && !strings.Contains(o.Stderr, "No space left on device") {
				t.Errorf("the messages do not report the full disk (in the stage %s):\n%s", stage, o.Stderr)
			}
			if !strings.Contains(o.Stderr, "hint: if the disk of data/ is full, `meros cache gc` frees space") {
				t.Errorf("the messages do not have the hint:\n%s", o.Stderr)
			}
		})
	}
}

// TestCacheElsewhere puts the cache on another disk: as a mount at data/cache,
// which may be on the same file system, or as a symbolic link. meros must also
// remove the files that a killed run of an earlier version left beside the cache.
func TestCacheElsewhere(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	for name, script := range map[string]string{
		"mount": `mv data/cache "$ELSE/cache"; mkdir data/cache; mount --bind "$ELSE/cache" data/cache`,
		"link":  `mount -t tmpfs none "$ELSE"; mv data/cache "$ELSE/cache"; ln -s "$ELSE/cache" data/cache`,
	} {
		t.Run(name, func(t *testing.T) {
			p := lab.Downloaded(t, "apart")
			p.Write(t, "constellations/apart/manifest.yml", plain)
			p.Write(t, "data/build/run-1/left", "of a killed run")
			cmd := exec.Command("unshare", "--mount", "sh", "-e", "-c", "mount --make-rprivate /\n"+script+`
"$MEROS" --progress=plain build apart --rootfs-only --locked
"$MEROS" --progress=plain cache export apart --rootfs-only -o apart.meros
"$MEROS" cache gc --max-size=1G
"$MEROS" cache verify
ls -A data data/cache/build`)
			cmd.Dir = p.Root
			cmd.Env = append(os.Environ(), "MEROS="+lab.Program(t), "ELSE="+t.TempDir())
			o := lab.Finish(t, cmd)
			if o.Exit != 0 || !strings.HasSuffix(o.Stdout, "data:\ncache\ndisks\n\ndata/cache/build:\n") {
				t.Errorf("exit status %d\n%s\n%s", o.Exit, o.Stdout, o.Stderr)
			}
			if !strings.Contains(o.Stderr, "cleaned up after an interrupted build") {
				t.Errorf("the messages do not report the removed files:\n%s", o.Stderr)
			}
		})
	}
}

// TestHookFillsDisk checks that a hook that fills the disk fails, and that the
// next build without it succeeds.
func TestHookFillsDisk(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	p := lab.Downloaded(t, "full")
	p.Write(t, "constellations/full/manifest.yml", plain)
	p.Write(t, "constellations/full/m/hooks/01-fill.chroot", "#!/bin/sh\nexec cat /dev/zero > /srv/big\n")
	o := inSmallData(t, p, "900M", `"$MEROS" --progress=plain build full --rootfs-only; echo "first: $?"
rm constellations/full/m/hooks/01-fill.chroot
"$MEROS" --progress=plain build full --rootfs-only; echo "second: $?"`)
	if !strings.Contains(o.Stdout, "first: 1") || !strings.Contains(o.Stdout, "second: 0") {
		t.Errorf("the first build must fail and the second succeed:\n%s\n%s", o.Stdout, o.Stderr)
	}
	for _, w := range []string{"hooks/01-fill.chroot", "No space left on device"} {
		if !strings.Contains(o.Stderr, w) {
			t.Errorf("there is no %q in\n%s", w, o.Stderr)
		}
	}
}

// TestReadOnlyData checks the error for a data directory that is read-only.
func TestReadOnlyData(t *testing.T) {
	lab.NeedRoot(t)
	p := lab.Downloaded(t, "ro")
	p.Write(t, "constellations/ro/manifest.yml", plain)
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount --make-rprivate / && mount --bind data data && mount -o remount,ro,bind data && exec "$MEROS" --progress=plain build ro`)
	cmd.Dir = p.Root
	cmd.Env = append(os.Environ(), "MEROS="+lab.Program(t))
	fails(t, lab.Finish(t, cmd), 1, "read-only file system", "data/ must be writable", "--root DIR")
}

// TestNoSubordinateIDs checks the error for a user without subordinate ids.
func TestNoSubordinateIDs(t *testing.T) {
	p := lab.Downloaded(t, "ids")
	p.Write(t, "constellations/ids/manifest.yml", plain)
	o := lab.Finish(t, p.AsUser(t, lab.UserOptions{NoSubIDs: true}, p.Command(t, "build", "ids")))
	fails(t, o, 1, "/etc/subuid", "usermod --add-subuids")
}

// TestMissingPrograms checks the error for a missing program.
func TestMissingPrograms(t *testing.T) {
	p := lab.Downloaded(t, "tools")
	p.Write(t, "constellations/tools/manifest.yml", plain)
	o := lab.Finish(t, p.AsUser(t, lab.UserOptions{Without: []string{"newuidmap"}}, p.Command(t, "build", "tools")))
	fails(t, o, 1, "newuidmap")
}
