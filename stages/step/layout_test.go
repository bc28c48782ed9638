// These tests compare the two halves of a stage: their files and the names by
// which they meet.

package step

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestFileNames checks that a stage is planned and carried out in two files of
// one name.
func TestFileNames(t *testing.T) {
	plans := names(t, "..", "plan", "names", "tools", "unread", "lock", "files", "kernel_build")
	does := names(t, ".", "step", "wire", "progress", "kernel_headers", "kernel_objects", "use_guest")
	if len(plans) < 15 || !slices.Equal(plans, does) {
		t.Errorf("stages has the files\n%q, and stages/step\n%q", plans, does)
	}
}

// names lists the files of a package without the ending, and without those that
// belong to no stage.
func names(t *testing.T, dir string, without ...string) (list []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".go")
		if !strings.HasSuffix(name, "_test") && !slices.Contains(without, name) {
			list = append(list, name)
		}
	}
	return list
}

// TestNames checks that both halves use the constants of package stages for the
// names of parameters, hints, inputs and outputs, never a literal.
func TestNames(t *testing.T) {
	seen := 0
	check := func(fset *token.FileSet, e ast.Expr) {
		seen++
		if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			t.Errorf("%s: %s is a literal", fset.Position(lit.Pos()), lit.Value)
		}
	}
	for _, dir := range []string{"..", "."} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				for _, e := range nameExprs(n) {
					check(fset, e)
				}
				return true
			})
		}
	}
	if seen < 200 {
		t.Errorf("found only %d names", seen)
	}
}

// nameExprs returns the expressions of n that name a parameter, hint, input or
// output.
func nameExprs(n ast.Node) (all []ast.Expr) {
	switch n := n.(type) {
	case *ast.IndexExpr: // s.Params[NAME]
		if s, ok := n.X.(*ast.SelectorExpr); ok && (s.Sel.Name == "Params" || s.Sel.Name == "Hints") {
			all = append(all, n.Index)
		}
	case *ast.CallExpr:
		switch f := n.Fun.(type) {
		case *ast.SelectorExpr:
			if x, ok := f.X.(*ast.Ident); ok && x.Name == "s" && slices.Contains([]string{"paths", "All", "local", "given", "output", "outputSparse"}, f.Sel.Name) || f.Sel.Name == "Param" {
				all = append(all, n.Args[0])
			}
			if len(n.Args) > 1 && f.Sel.Name == "Join" { // filepath.Join(s.Out, NAME)
				if dir, ok := n.Args[0].(*ast.SelectorExpr); ok && dir.Sel.Name == "Out" {
					all = append(all, n.Args[1])
				}
			}
		case *ast.Ident:
			if f.Name == "trees" {
				all = append(all, n.Args[0])
			}
		}
	case *ast.BinaryExpr: // in.Name != NAME
		if s, ok := n.X.(*ast.SelectorExpr); ok && s.Sel.Name == "Name" {
			if x, ok := s.X.(*ast.Ident); ok && (x.Name == "in" || x.Name == "l") {
				all = append(all, n.Y)
			}
		}
	case *ast.KeyValueExpr:
		key, ok := n.Key.(*ast.Ident)
		list, isList := n.Value.(*ast.CompositeLit)
		switch {
		case ok && key.Name == "Output":
			all = append(all, n.Value)
		case ok && key.Name == "Outputs" && isList:
			all = append(all, list.Elts...)
		}
	case *ast.CompositeLit: // {Name: NAME, Value: ...} and {Name: NAME, Node: ...}
		var name ast.Expr
		is := false
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				switch key, _ := kv.Key.(*ast.Ident); {
				case key == nil:
				case key.Name == "Name":
					name = kv.Value
				case key.Name == "Value", key.Name == "Node":
					is = true
				}
			}
		}
		if is && name != nil {
			all = append(all, name)
		}
	}
	return all
}
