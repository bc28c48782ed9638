// This file has the helpers that the tests of the program share.

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meros/bench/lab"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveEnv); dir != "" {
		fmt.Fprintln(os.Stderr, serve(dir))
		os.Exit(1)
	}
	code := m.Run()
	lab.Close()
	if sharedDir != "" {
		os.RemoveAll(sharedDir)
	}
	os.Exit(code)
}

// serveEnv names the environment variable that turns the test program into an
// HTTP server. Its value is the directory to serve. A test uses it to run a server
// in another network.
const serveEnv = "MEROS_TEST_SERVE"

// serve serves a directory over HTTP and prints a line once it is ready.
func serve(dir string) error {
	l, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return http.Serve(l, http.FileServer(http.Dir(dir)))
}

// sharedDir is the directory of the project that [shared] returns.
var sharedDir string

// plain has a machine without extra packages, which builds in seconds.
const plain = "virtual_machines:\n  m: {suite: bookworm}\n"

// shared returns a project whose cache has the base of plain machines. Each test
// uses its own constellation in it. At most one test that calls t.Parallel may use
// it, because [leftovers] cannot tell the files of two tests apart.
func shared(t *testing.T, constellation string, files map[string]string) *lab.Project {
	t.Helper()
	lab.NeedRoot(t)
	first := sharedDir == ""
	if first {
		dir, err := os.MkdirTemp("", "meros-shared-")
		if err != nil {
			t.Fatal(err)
		}
		sharedDir = dir
	}
	p := lab.In(t, sharedDir, nil)
	if first {
		p.Build(t, constellation)
	} else {
		p.Download(t, constellation)
	}
	if _, ok := files["manifest.yml"]; !ok {
		p.Write(t, "constellations/"+constellation+"/manifest.yml", plain)
	}
	for name, text := range files {
		p.Write(t, "constellations/"+constellation+"/"+name, text)
	}
	t.Cleanup(func() { os.RemoveAll(p.Path("constellations/" + constellation)) })
	return p
}

// fails checks that a run ended with the exit status, and that its messages have
// each of the words.
func fails(t *testing.T, o *lab.Outcome, exit int, words ...string) {
	t.Helper()
	if o.Exit != exit {
		t.Errorf("exit status %d, want %d\n%s", o.Exit, exit, o.Stderr)
	}
	text := o.Stderr + hintLines(o.Stderr)
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("there is no %q in the messages:\n%s", w, o.Stderr)
		}
	}
}

// hintLines returns the hints of events in JSON as --progress=plain shows them.
func hintLines(stderr string) string {
	var all strings.Builder
	for line := range strings.Lines(stderr) {
		var event struct{ Hint string }
		if json.Unmarshal([]byte(line), &event) == nil {
			for h := range strings.Lines(event.Hint) {
				all.WriteString("\nhint: " + strings.TrimSuffix(h, "\n"))
			}
		}
	}
	return all.String()
}

// leftovers checks that a build left no temporary files and no mounts.
func leftovers(t *testing.T, p *lab.Project) {
	t.Helper()
	for _, pattern := range []string{"data/build", "data/cache/build/*", "data/cache/tmp/*", "data/cache/locks/*"} {
		found, _ := filepath.Glob(p.Path(pattern))
		if len(found) > 0 {
			t.Errorf("left behind: %v", found)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), p.Root) {
		t.Errorf("something in %s is still mounted", p.Root)
	}
}

// processes returns the ids and command lines of running processes whose command
// line has word.
func processes(t *testing.T, word string) (found []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, _ := os.ReadFile(f) // fails if the process has ended
		if line := strings.ReplaceAll(string(b), "\x00", " "); strings.Contains(line, word) {
			found = append(found, filepath.Base(filepath.Dir(f))+" "+line)
		}
	}
	return found
}

// disk returns the digest of a machine's delivered image.
func disk(t *testing.T, p *lab.Project, name string) string {
	t.Helper()
	sum, err := fileDigest(p.Path("data/disks/" + name + ".qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
