package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// commandLines are the lines of code in a document that call meros, without
// what is said of them.
func commandLines(text string) []string {
	var all []string
	comment := regexp.MustCompile(`\s+#.*| [0-9]*>.*$`)
	for line := range strings.Lines(text) {
		code, ok := strings.CutPrefix(line, "    ")
		if !ok {
			continue
		}
		code = strings.TrimPrefix(strings.TrimSpace(code), "$ ")
		code = strings.TrimPrefix(strings.TrimPrefix(code, "- "), "run: ")
		if rest, ok := strings.CutPrefix(code, "meros "); ok {
			all = append(all, strings.TrimSpace(comment.ReplaceAllString(rest, "")))
		}
	}
	return all
}

// Every command that a document shows is one that the program takes.
func TestDocumentedCommands(t *testing.T) {
	documents, _ := filepath.Glob("../../docs/*.md")
	found := 0
	for _, file := range append(documents, "../../README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range commandLines(string(text)) {
			found++
			var c cli
			parser, err := kong.New(&c, kong.Name("meros"), kong.Writers(new(bytes.Buffer), new(bytes.Buffer)), kong.Exit(func(int) {}), kong.Vars{"version": ""})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parser.Parse(strings.Fields(line)); err != nil {
				t.Errorf("%s: meros %s: %v", filepath.Base(file), line, err)
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d commands were found", found)
	}
}

// The README's table has every verb.
func TestDocumentedVerbs(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	table := string(text[bytes.Index(text, []byte("## The verbs")):])
	parser, err := kong.New(&cli{}, kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range parser.Model.Children {
		if !n.Hidden && n.Name != "demo" && !strings.Contains(table, "`"+n.Name+"`") {
			t.Errorf("the verb %s is not in the table", n.Name)
		}
	}
}
