// This file tests requests, and checks that verbs share requests and not flags.

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRequestArgs checks the command line that builds a request in another process.
func TestRequestArgs(t *testing.T) {
	r := &request{Constellation: "shop", Machines: []string{"web", "db"}, Boot: true, Use: "old.qcow2", Timeout: 90 * time.Second, Jobs: 3, Rebuild: "hooks"}
	want := []string{"build", "shop", "web", "db", "--boot", "--jobs=3", "--rebuild=hooks", "--timeout=1m30s", "--use=old.qcow2"}
	if got := r.args(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := commandLine([]string{"cache", "gc"}, map[string]any{"max-size": byteSize(20), "json": false, "config": []string{"a", "b"}}); !slices.Equal(got, []string{"cache", "gc", "--config=a", "--config=b", "--max-size=20B"}) {
		t.Errorf("got %q", got)
	}
}

// TestNoVerbUsesAnothersFlags checks that only a verb's own file uses its flags.
// The struct of the command line is exempt, because it has all verbs as fields.
func TestNoVerbUsesAnothersFlags(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	files := make(map[string]*ast.File)
	for _, name := range names {
		if files[name], err = parser.ParseFile(fset, name, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	declared := make(map[string]string)
	for name, f := range files {
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE {
				for _, s := range g.Specs {
					if n := s.(*ast.TypeSpec).Name.Name; strings.HasSuffix(n, "Cmd") {
						declared[n] = name
					}
				}
			}
		}
	}
	if len(declared) < 30 {
		t.Fatalf("found only %d verbs", len(declared))
	}
	for name, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Field:
				return n.Tag == nil || !strings.Contains(n.Tag.Value, `cmd:""`)
			case *ast.Ident:
				if file, ok := declared[n.Name]; ok && file != name {
					t.Errorf("%s uses %s", fset.Position(n.Pos()), n.Name)
				}
			}
			return true
		})
	}
}
