// This file tests that the client's half of the package cannot start machines.

package vm

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// A Group is only data. The types that start QEMU are made in two places: the
// supervisor's inner process and the boot check.
func TestClientsCannotLaunch(t *testing.T) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Group]()) {
		if f.Type.Kind() != reflect.String {
			t.Errorf("Group.%s is a %s: it may lead to a launcher", f.Name, f.Type)
		}
	}
	var makers []string
	for _, d := range functions(t) {
		ast.Inspect(d.Body, func(n ast.Node) bool {
			var made ast.Expr
			switch n := n.(type) {
			case *ast.CompositeLit:
				made = n.Type
			case *ast.CallExpr:
				made = n.Fun
				if id, ok := n.Fun.(*ast.Ident); ok && id.Name == "new" {
					made = n.Args[0]
				}
			case *ast.ValueSpec:
				made = n.Type
			}
			if id, ok := made.(*ast.Ident); ok && slices.Contains([]string{"launcher", "newLauncher", "inner"}, id.Name) {
				makers = append(makers, d.Name.Name+" makes "+id.Name)
			}
			return true
		})
	}
	slices.Sort(makers)
	want := []string{"CheckBoot makes newLauncher", "SuperviseInner makes inner", "SuperviseInner makes newLauncher", "newLauncher makes launcher"}
	if !slices.Equal(makers, want) {
		t.Errorf("%q, want %q", makers, want)
	}
}

// The functions that hold a command line of QEMU belong to the launcher.
func TestOnlyLauncherRunsQEMU(t *testing.T) {
	seen := 0
	for _, d := range functions(t) {
		ast.Inspect(d, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok || s.Sel.Name != "Argv" && s.Sel.Name != "launch" && s.Sel.Name != "OpenTap" {
				return true
			}
			if of, ok := s.X.(*ast.Ident); ok && of.Name == "h" {
				return true // of ssh
			}
			seen++
			if d.Recv == nil || receiver(d) != "launcher" {
				t.Errorf("%s calls %s and is not a method of launcher", d.Name.Name, s.Sel.Name)
			}
			return true
		})
	}
	if seen != 3 {
		t.Errorf("found %d calls, want 3", seen)
	}
}

// functions returns the functions and methods of the package, without its tests.
func functions(t *testing.T) []*ast.FuncDecl {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all []*ast.FuncDecl
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if d, ok := d.(*ast.FuncDecl); ok {
				all = append(all, d)
			}
		}
	}
	return all
}

func receiver(d *ast.FuncDecl) string {
	if star, ok := d.Recv.List[0].Type.(*ast.StarExpr); ok {
		return star.X.(*ast.Ident).Name
	}
	return ""
}
