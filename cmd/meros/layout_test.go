package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"

	"meros/bench/lab"
)

// mayImport is which of meros' packages each may import; "/..." stands for
// what is below. What is not named may import none.
var mayImport = map[string][]string{
	"cmd/meros": {"..."},
	"bench/lab": {"..."},
	"bench":     {"..."},
	"stages":    {"constellations", "graph", "runner"},
	"graph":     {"cache", "runner"},
	"runner/vm": {"constellations", "runner/..."},
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "meros/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; seen++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, "meros/")
		for _, i := range p.Imports {
			other, ours := strings.CutPrefix(i, "meros/")
			if ours && !slices.ContainsFunc(mayImport[name], func(rule string) bool {
				dir, below := strings.CutSuffix(rule, "...")
				return other == rule || below && strings.HasPrefix(other, dir)
			}) {
				t.Errorf("%s imports %s", name, other)
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d packages were looked at", seen)
	}
}

// Nothing else is at the top.
func TestTopLevel(t *testing.T) {
	out, err := exec.Command("git", "-C", "../..", "ls-tree", "--name-only", "HEAD").Output()
	if err != nil {
		lab.Skip(t, "not a git repository: there is no list of what belongs to it")
	}
	want := []string{
		".ci", ".gitignore", "LICENSE", "README.md", "bench", "cache", "cmd", "constellations", "data",
		"dist-conf.sh", "docs", "go.mod", "go.sum", "graph", "justfile", "runner", "stages",
	}
	for name := range strings.Lines(string(out)) {
		if !slices.Contains(want, strings.TrimSpace(name)) {
			t.Errorf("%s does not belong at the top", name)
		}
	}
	if fi, err := os.Stat("../../dist-conf.sh"); err != nil || fi.Mode().Perm()&0o100 == 0 {
		t.Errorf("dist-conf.sh cannot be run: %v", err)
	}
}

// The first program of a machine of 32 bits is this one as well: nothing in it
// needs longer integers.
func TestTypesOf32Bits(t *testing.T) {
	t.Parallel()
	for _, arch := range []string{"arm", "386"} {
		config := &packages.Config{
			Mode: packages.NeedName | packages.NeedFiles | packages.NeedSyntax | packages.NeedImports | packages.NeedDeps | packages.NeedTypes | packages.NeedTypesSizes,
			Env:  append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch),
		}
		loaded, err := packages.Load(config, "meros/cmd/meros")
		if err != nil {
			t.Fatal(err)
		}
		ours := 0
		packages.Visit(loaded, nil, func(p *packages.Package) {
			if strings.HasPrefix(p.PkgPath, "meros/") {
				ours++
			}
			for _, e := range p.Errors {
				t.Errorf("%s: %v", arch, e)
			}
		})
		if ours < 10 {
			t.Errorf("%s: only %d packages were looked at", arch, ours)
		}
	}
}
