// This file tests programs in a machine that show windows on the host.

package main

import (
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meros/bench/lab"
)

// desktop starts a compositor without a screen, as the user of
// [lab.Project.AsUser]. It returns the directory of the compositor's socket.
func desktop(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	if err := os.Chown(dir, 61001, 61001); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config")
	if err := os.WriteFile(config, []byte("default_border none\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	sway := exec.Command("setpriv", "--reuid=61001", "--regid=61001", "--clear-groups", "sway", "-c", config)
	sway.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_RUNTIME_DIR=" + dir, "WLR_BACKENDS=headless", "WLR_LIBINPUT_NO_DEVICES=1", "WLR_RENDERER=pixman"}
	sway.Dir = dir
	var said strings.Builder
	sway.Stderr = &said
	if err := sway.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sway.Process.Kill(); sway.Wait() })
	for end := time.Now().Add(guestTimeout(t)); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "wayland-1")); err == nil {
			return dir
		}
		if time.Now().After(end) {
			t.Fatalf("the compositor does not start: %s", said.String())
		}
	}
}

// redShare returns the share of the desktop's pixels that are red, from 0 to 1.
func redShare(t *testing.T, dir string) float64 {
	t.Helper()
	shot := filepath.Join(t.TempDir(), "shot.png")
	grim := exec.Command("grim", shot)
	grim.Env = []string{"XDG_RUNTIME_DIR=" + dir, "WAYLAND_DISPLAY=wayland-1"}
	if out, err := grim.CombinedOutput(); err != nil {
		t.Fatalf("grim: %v\n%s", err, out)
	}
	f, err := os.Open(shot)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	n, all := 0, img.Bounds()
	for y := all.Min.Y; y < all.Max.Y; y++ {
		for x := all.Min.X; x < all.Max.X; x++ {
			if r, g, b, _ := img.At(x, y).RGBA(); r > 0xf000 && g < 0x1000 && b < 0x1000 {
				n++
			}
		}
	}
	return float64(n) / float64(all.Dx()*all.Dy())
}

// TestGUI checks that a program in a machine shows its window on the host, and
// that `meros run` ends with the program's status.
func TestGUI(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-system-x86_64", "ssh", "waypipe", "sway", "grim", "setpriv")
	p := lab.DownloadedGUI(t, "gui")
	p.Write(t, "constellations/gui/manifest.yml", readFile(t, "../../constellations/gui/manifest.yml"))
	command := func(env []string, args ...string) *exec.Cmd {
		cmd := p.AsUser(t, lab.UserOptions{}, p.Command(t, args...))
		cmd.Env = append(cmd.Environ(), env...)
		return cmd
	}
	meros := func(args ...string) *lab.Outcome { return lab.Finish(t, command(nil, args...)) }
	if o := meros("init", "gui"); o.Exit != 0 {
		t.Fatal(o.Stderr)
	}
	t.Cleanup(func() { meros("shutdown", "gui", "--wait=5s") })
	if o := meros("run", "gui", "desk", "sh", "-c", "echo \"$1\"; exit 7", "sh", "a  b"); o.Exit != 7 || o.Stdout != "a  b\n" || !strings.Contains(o.Stderr, "no Wayland compositor is here") {
		t.Errorf("without a desktop: exit status %d, %q, %q", o.Exit, o.Stdout, o.Stderr)
	}

	dir := desktop(t)
	env := []string{"XDG_RUNTIME_DIR=" + dir, "WAYLAND_DISPLAY=wayland-1"}
	window := command(env, "run", "gui", "desk", "env", "LC_ALL=C.UTF-8", "foot", "-o", "colors.background=ff0000", "sh", "-c", "until test -e /tmp/end; do sleep 0.2; done; exit 5")
	ended := make(chan *lab.Outcome, 1)
	go func() { ended <- lab.Finish(t, window) }()
	for end := time.Now().Add(guestTimeout(t)); ; time.Sleep(200 * time.Millisecond) {
		if part := redShare(t, dir); part > 0.9 {
			break
		} else if time.Now().After(end) {
			t.Fatalf("%.0f %% of the desktop is red, want more than 90 %%", 100*part)
		}
	}
	meros("connect", "gui", "desk", "--", "touch /tmp/end")
	if o := <-ended; o.Exit != 5 {
		t.Errorf("exit status %d, want the program's status 5: %s", o.Exit, o.Stderr)
	}
	if part := redShare(t, dir); part > 0.01 {
		t.Errorf("%.0f %% of the desktop is red after the program's end", 100*part)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "meros", "run-*")); len(found) > 0 {
		t.Errorf("left behind: %q", found)
	}
	if o := meros("connect", "gui", "desk", "--", "ls -d /tmp/.meros* 2>/dev/null; pgrep waypipe"); o.Stdout != "" {
		t.Errorf("left behind in the machine: %q", o.Stdout)
	}
	if o := lab.Finish(t, command(env, "run", "--no-gui", "gui", "desk", "sh", "-c", "echo $WAYLAND_DISPLAY; exit 3")); o.Exit != 3 || o.Stdout != "\n" {
		t.Errorf("without windows: exit status %d, %q", o.Exit, o.Stdout)
	}
}
