// This file checks what a machine can check of the language in messages,
// comments and documents.

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"meros/bench/lab"
)

// unclear matches phrases that need decoding. "There is no" and "is no longer"
// are plain; [unclearPhrase] lets them pass.
var unclear = regexp.MustCompile(`(?i)(\S+ )?\b(is no |are none|(is|are) told|tells whether|what is of|who does\b|that which|\bsomebody\b|image of containers|the ancestor|anew\b)(longer)?`)

func unclearPhrase(text string) string {
	for _, m := range unclear.FindAllStringSubmatch(text, -1) {
		if strings.EqualFold(strings.Trim(m[1], "'\"^ "), "there") || m[4] == "longer" {
			continue
		}
		return strings.TrimSpace(m[0])
	}
	return ""
}

// parenthesized matches a next step in parentheses at the end of a message.
var parenthesized = regexp.MustCompile("\\(([^()]*(meros |--|`|did you mean|apt install|\\?|: )[^()]*|(build|run|use|make|raise|remove|leave|copy|try|keep|see|allow|add|write|choose|name|set) [^()]*)\\)[.:]?$")

// maxError is the longest an error's text may be before its hint, in bytes.
const maxError = 160

func TestPlainLanguage(t *testing.T) {
	for text, want := range map[string]string{
		"it is no image": "it is no", "there is no image": "", "it is no longer there": "", "what is of it": "what is of", "none of them are": "", "keys are none of ours": "keys are none",
	} {
		if got := unclearPhrase(text); got != want {
			t.Errorf("unclearPhrase(%q) = %q, want %q", text, got, want)
		}
	}
	for text, want := range map[string]bool{
		"x is missing (apt install x)": true, "x is not in y (did you mean z?)": true, "ended early (exit status %d)": false, "too small (raise disk_size)": true, "%s (%d bytes)": false,
	} {
		if got := parenthesized.MatchString(text); got != want {
			t.Errorf("parenthesized matches %q: %v, want %v", text, got, want)
		}
	}
	files, err := exec.Command("git", "-C", "../..", "ls-files", "*.go", "*.md", "*.txtar", "*.sh", "justfile", ".ci/*").Output()
	if err != nil {
		lab.Skip(t, "not a git repository: there is no list of its files")
	}
	checked := 0
	for name := range strings.Lines(string(files)) {
		name = strings.TrimSpace(name)
		checked++
		switch file := filepath.Join("../..", name); {
		case name == "cmd/meros/language_test.go", name == "docs/CHANGELOG.md":
		case strings.HasSuffix(name, ".go"):
			checkSource(t, name, file)
		default:
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for line := range strings.Lines(string(b)) {
				if n++; unclearPhrase(line) != "" {
					t.Errorf("%s:%d: unclear: %q", name, n, unclearPhrase(line))
				}
			}
		}
	}
	if checked < 300 {
		t.Errorf("checked only %d files", checked)
	}
}

// checkSource checks the comments, strings and errors of a Go file.
func checkSource(t *testing.T, name, file string) {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	line := func(p token.Pos) int { return set.Position(p).Line }
	if len(f.Comments) == 0 || f.Comments[0].Pos() > f.Package {
		t.Errorf("%s does not open with a sentence on what it does", name)
	}
	for _, c := range f.Comments {
		if phrase := unclearPhrase(strings.Join(strings.Fields(c.Text()), " ")); phrase != "" {
			t.Errorf("%s:%d: unclear comment: %q", name, line(c.Pos()), phrase)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil {
				if phrase := unclearPhrase(text); phrase != "" {
					t.Errorf("%s:%d: unclear message: %q", name, line(n.Pos()), phrase)
				}
			}
		case *ast.CallExpr:
			if text, ok := errorText(n); ok {
				if parenthesized.MatchString(text) {
					t.Errorf("%s:%d: the error has a hint in parentheses: %q", name, line(n.Pos()), text)
				}
				if len(text) > maxError {
					t.Errorf("%s:%d: the error has %d bytes, at most %d are read", name, line(n.Pos()), len(text), maxError)
				}
			}
		}
		return true
	})
}

// errorText returns the text of a call that makes an error.
func errorText(call *ast.CallExpr) (string, bool) {
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || len(call.Args) == 0 {
		return "", false
	}
	pkg, ok := f.X.(*ast.Ident)
	if !ok || pkg.Name+"."+f.Sel.Name != "fmt.Errorf" && pkg.Name+"."+f.Sel.Name != "errors.New" {
		return "", false
	}
	lit, ok := call.Args[0].(*ast.BasicLit)
	if !ok {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}
