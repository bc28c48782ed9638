// This file tests reports and traces, and the records that they are made from.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"meros/bench/lab"
	"meros/cache"
	"meros/graph/record"
)

// syntheticBuild returns the record of a build with this number of machines.
func syntheticBuild(machines int) *record.Build {
	b := &record.Build{Head: record.Head{ID: "20260102-030405-lab", Name: "lab", Verb: "build", Began: time.Unix(0, 0).UTC(), Seconds: float64(machines) / 4, Result: "failed", CPUs: 8, Failed: 1}}
	add := func(s record.Node) int {
		s.Key = digest.FromString(s.Name).Encoded()
		if s.Stage == "fetch" {
			s.URL = "http://mirror.invalid/" + s.Name
		}
		s.Outputs = map[string]cache.Artifact{"o": {Digest: digest.FromString(s.Name), Size: 1000}}
		b.Stages = append(b.Stages, s)
		b.Nodes++
		if s.Outcome == "ran" {
			b.Ran++
		} else if s.Outcome == "cached" {
			b.Cached++
		}
		return len(b.Stages) - 1
	}
	var fetched []int
	for i := range 100 {
		fetched = append(fetched, add(record.Node{Name: fmt.Sprintf("fetch package%d_1.0_amd64.deb", i), Stage: "fetch", Outcome: "cached"}))
	}
	base := add(record.Node{Name: "base", Stage: "bootstrap", Outcome: "ran", Seconds: 3, Inputs: fetched})
	for i := range machines {
		name := fmt.Sprintf("lab/m%d ", i)
		at := 3 + float64(i)/4
		hooks := add(record.Node{Name: name + "hooks <b>&", Stage: "hooks", Outcome: "ran", Start: at, Seconds: 1, Inputs: []int{base}})
		add(record.Node{Name: name + "image", Stage: "delta", Outcome: "ran", Start: at + 1, Seconds: 0.5, Inputs: []int{base, hooks}, Target: true})
	}
	add(record.Node{Name: "lab/m0 bad", Stage: "hooks", Outcome: "failed", Error: "exit status 3", Start: 1, Seconds: 2})
	return b
}

// render returns the page about a build.
func render(t testing.TB, b, before *record.Build) []byte {
	t.Helper()
	store, err := cache.Open(t.TempDir(), cache.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	if err := reportTemplate().Execute(&page, newReport(store, b, before)); err != nil {
		t.Fatal(err)
	}
	return page.Bytes()
}

// TestReportInBrowser checks that a browser shows the numbers of the record, and
// that a link opens the part of the page that it leads to.
func TestReportInBrowser(t *testing.T) {
	lab.Long(t)
	lab.Need(t, "chromium")
	for _, machines := range []int{3, 1000} {
		b := syntheticBuild(machines)
		file := filepath.Join(t.TempDir(), "report.html")
		if err := os.WriteFile(file, render(t, b, nil), 0o644); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		dom := browse(t, file+"#s0", "--dump-dom")
		t.Logf("%d machines: loaded and shown in %v", machines, time.Since(start))
		for id, want := range map[string]int{"nodes": b.Nodes, "ran": b.Ran, "cached": b.Cached, "failed": 1} {
			if got := regexp.MustCompile(`<dd id="` + id + `"[^>]*>(\d+)</dd>`).FindSubmatch(dom); got == nil || string(got[1]) != fmt.Sprint(want) {
				t.Errorf("%d machines: %s is %q, want %d", machines, id, got, want)
			}
		}
		if !bytes.Contains(dom, []byte(`<details open="">`)) {
			t.Errorf("%d machines: the link does not open its target", machines)
		}
		if bytes.Contains(dom, []byte("hooks <b>")) {
			t.Errorf("%d machines: the page has an unescaped name", machines)
		}
	}
	shot := filepath.Join(t.TempDir(), "report.png")
	file := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(file, render(t, syntheticBuild(3), nil), 0o644); err != nil {
		t.Fatal(err)
	}
	browse(t, file, "--screenshot="+shot, "--window-size=1200,1600")
	if fi, err := os.Stat(shot); err != nil || fi.Size() < 20_000 {
		t.Errorf("the screenshot: %v, %v", fi, err)
	}
}

// browse opens a page in a browser without a window or a network.
func browse(t *testing.T, url string, more ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lab.Timeout(t, 2*time.Minute))
	defer cancel()
	args := append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=" + t.TempDir()}, more...)
	cmd := exec.CommandContext(ctx, "chromium", append(args, "file://"+url)...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	return out
}

// TestMaterials checks the list of downloads in the images, and that each names a
// few machines and the number of the others.
func TestMaterials(t *testing.T) {
	all := syntheticBuild(6).Materials()
	if len(all) != 100 || all[0].In() != "m0, m1, m2 and 3 more" || all[0].URL == "" || all[0].Size != 1000 {
		t.Errorf("there are %d materials, the first is %+v", len(all), all[0])
	}
}

// TestTrace checks that a trace has the fields that Perfetto reads.
func TestTrace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace.json")
	if err := writeTrace(file, syntheticBuild(2), 0o644); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	var trace struct {
		TraceEvents []struct {
			Phase    string  `json:"ph"`
			Duration float64 `json:"dur"`
			Thread   int     `json:"tid"`
		}
	}
	if err != nil || json.Unmarshal(text, &trace) != nil || len(trace.TraceEvents) != 7 {
		t.Fatalf("read the trace: error %v\n%s", err, text)
	}
	for _, e := range trace.TraceEvents[1:] {
		if e.Phase != "X" || e.Duration <= 0 || e.Thread < 1 {
			t.Errorf("the trace has the event %+v", e)
		}
	}
}

// TestRecords checks that a store preserves the newest records, and finds them by
// id, name and age.
func TestRecords(t *testing.T) {
	rs := record.Store{Dir: t.TempDir()}
	for i := range record.MaxBuilds + 3 {
		b := syntheticBuild(1)
		b.Began = b.Began.Add(time.Duration(i/2) * time.Second)
		if err := rs.Save(rs.Dir, b, func(*record.Build) {}); err != nil {
			t.Fatal(err)
		}
	}
	ids, err := rs.IDs("lab")
	if err != nil || len(ids) != record.MaxBuilds {
		t.Errorf("%d records, %v", len(ids), err)
	}
	for what, want := range map[string]string{"": ids[len(ids)-1], "lab": ids[len(ids)-1], "lab~1": ids[len(ids)-2], ids[3]: ids[3]} {
		if b, err := rs.Find(what); err != nil || b.ID != want || len(b.Stages) != 104 {
			t.Errorf("find %q: error %v, want the record %s", what, err, want)
		}
	}
	for _, what := range []string{"la", "lab~x", "lab~99", "1970"} {
		if b, err := rs.Find(what); err == nil {
			t.Errorf("find %q: got %s, want an error", what, b.ID)
		}
	}
	if err := os.WriteFile(filepath.Join(rs.Dir, "20260101-000000-bad.json.zst"), []byte("no"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := rs.Find("bad"); err == nil || !strings.Contains(err.Error(), "read the record of 20260101-000000-bad") {
		t.Errorf("find a damaged record: %v", err)
	}
}
