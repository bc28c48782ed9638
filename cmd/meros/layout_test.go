// This file checks the layout of the repository: imports, files at the top, and
// types of 32 bits.

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

// mayImport lists the packages of meros that each package may import; "/..."
// stands for everything below. A package that is not listed may import only
// those of anyImports.
var mayImport = map[string][]string{
	"cmd/meros":    {"..."},
	"stages/pin":   {"stages", "stages/step", "constellations", "cache", "runner", "runner/..."},
	"stages/step":  {"stages", "constellations", "graph", "runner", "runner/..."},
	"stages":       {"constellations", "graph", "runner"},
	"graph":        {"cache", "runner"},
	"graph/record": {"graph", "cache", "runner"},
	"runner/vm":    {"constellations", "runner/..."},
}

// anyImports lists the packages that every package may import.
var anyImports = []string{"runner/arch", "runner/hint"}

// testsImport lists the further imports of each package's tests. Every test
// may import bench/lab.
var testsImport = map[string][]string{
	"bench":         {"..."},
	"runner":        {"runner/sandbox"},
	"runner/debian": {"runner/guest"},
	"runner/guest":  {"runner/layer"},
}

// TestImports checks that every package imports only the packages that it may.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "meros/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; seen++ {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, "meros/")
		allowed := slices.Concat(anyImports, mayImport[name])
		for _, i := range forbidden(p.Imports, allowed) {
			t.Errorf("%s imports %s", name, i)
		}
		allowed = slices.Concat(allowed, testsImport[name], []string{name, "bench/lab"})
		for _, i := range forbidden(slices.Concat(p.TestImports, p.XTestImports), allowed) {
			t.Errorf("a test of %s imports %s", name, i)
		}
	}
	if seen < 20 {
		t.Errorf("read only %d packages", seen)
	}
}

// forbidden returns the imports that are packages of meros and that no rule
// allows.
func forbidden(imports, rules []string) (names []string) {
	for _, i := range imports {
		name, ours := strings.CutPrefix(i, "meros/")
		if ours && !slices.ContainsFunc(rules, func(rule string) bool {
			dir, below := strings.CutSuffix(rule, "...")
			return name == rule || below && strings.HasPrefix(name, dir)
		}) {
			names = append(names, name)
		}
	}
	return names
}

// TestTopLevel checks that the top of the repository has only the listed files.
func TestTopLevel(t *testing.T) {
	out, err := exec.Command("git", "-C", "../..", "ls-tree", "--name-only", "HEAD").Output()
	if err != nil {
		lab.Skip(t, "not a git repository: there is no list of its files")
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
		t.Errorf("dist-conf.sh is not executable: %v", err)
	}
}

// Test32BitTypes checks that the program compiles for 32-bit architectures,
// because it is also the first program of a machine of 32 bits.
func Test32BitTypes(t *testing.T) {
	lab.Long(t)
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
			t.Errorf("%s: checked only %d packages", arch, ours)
		}
	}
}
