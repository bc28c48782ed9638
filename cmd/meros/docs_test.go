// This file checks the commands that README.md and docs/ show: the program's own
// parser has to accept each of them. It does not run them.

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// otherPrograms are the programs besides meros that documents may call.
var otherPrograms = []string{"./dist-conf.sh", ".ci/nightly", "apt", "echo", "eval", "go", "sysctl", "unshare", "usermod"}

// shownCommand is a command in a document.
type shownCommand struct {
	line   int    // in the document
	args   string // the words after "meros"
	inline bool   // within a sentence, where it may lack its arguments
}

var (
	comment    = regexp.MustCompile(`(^|\s+)#.*$`)
	redirected = regexp.MustCompile(`\s[0-9]*>.*$|\s\|.*$`)
	assignment = regexp.MustCompile(`^[A-Z_]+=\S* `)
	nested     = regexp.MustCompile(`\$\(meros ([^)]*)\)|\./cmd/meros (\S.*)|dist-conf\.sh meros (\S.*)`)
	inlineCode = regexp.MustCompile("`(?:\\$ )?meros ([^`]+)`")
	placehold  = regexp.MustCompile(`\b(VERB|IMAGE|STAGE|FILE)\b`)
)

// shownCommands finds the calls of meros in a document, in indented and fenced
// blocks and within sentences. It reports calls of programs that are neither
// meros nor one of otherPrograms.
func shownCommands(text string) (found []shownCommand, unknown []string) {
	fenced, shell := false, false // shell: the block calls programs
	session := false              // only lines that begin with "$ " are commands
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "```") {
			fenced, shell, session = !fenced, false, false
			continue
		}
		code, indented := strings.CutPrefix(line, "    ")
		if !fenced && !indented {
			if strings.TrimSpace(line) != "" {
				shell, session = false, false
			}
			for _, m := range inlineCode.FindAllStringSubmatch(line, -1) {
				if !placehold.MatchString(m[1]) {
					found = append(found, shownCommand{i + 1, m[1], true})
				}
			}
			continue
		}
		code, prompt := strings.CutPrefix(strings.TrimSpace(code), "$ ")
		inYAML := strings.HasPrefix(code, "- ")
		code = strings.TrimPrefix(strings.TrimPrefix(code, "- "), "run: ")
		code = strings.TrimSpace(redirected.ReplaceAllString(comment.ReplaceAllString(code, ""), ""))
		for assignment.MatchString(code) {
			code = assignment.ReplaceAllString(code, "")
		}
		program, args, _ := strings.Cut(code, " ")
		session = session || prompt
		other := slices.Contains(otherPrograms, program)
		switch {
		case session && !prompt:
		case program == "meros":
			found = append(found, shownCommand{i + 1, args, false})
			shell = !inYAML
		case nested.MatchString(code) && (other || prompt || inYAML):
			m := nested.FindStringSubmatch(code)
			found = append(found, shownCommand{i + 1, m[1] + m[2] + m[3], false})
			shell = !inYAML
		case code == "":
		case other:
			shell = true
		case prompt || shell:
			unknown = append(unknown, fmt.Sprintf("line %d: %s", i+1, program))
		}
	}
	return found, unknown
}

// parseShown parses a command as the program would, and does not run it.
func parseShown(c shownCommand) error {
	parser, err := kong.New(&cli{}, kong.Name("meros"), kong.Writers(new(bytes.Buffer), new(bytes.Buffer)), kong.Exit(func(int) {}), kong.Vars{"version": ""})
	if err != nil {
		return err
	}
	_, err = parser.Parse(strings.Fields(c.args))
	if err != nil && c.inline && strings.HasPrefix(err.Error(), "expected ") && !strings.Contains(err.Error(), "unexpected") {
		return nil
	}
	return err
}

// documents are the files for users, by name.
func documents(t *testing.T) map[string]string {
	t.Helper()
	files, _ := filepath.Glob("../../docs/*.md")
	all := make(map[string]string)
	for _, file := range append(files, "../../README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(file)] = string(text)
	}
	return all
}

// TestDocumentedCommands parses every command that a document shows.
func TestDocumentedCommands(t *testing.T) {
	total := 0
	for file, text := range documents(t) {
		found, unknown := shownCommands(text)
		for _, u := range unknown {
			t.Errorf("%s, %s is not one of the programs that documents may call", file, u)
		}
		for _, c := range found {
			if err := parseShown(c); err != nil {
				t.Errorf("%s, line %d: meros %s: %v", file, c.line, c.args, err)
			}
		}
		total += len(found)
	}
	if total < 100 {
		t.Errorf("found only %d commands", total)
	}
}

// TestDocumentedCommandsFindMistakes checks that wrong verbs, flags and programs
// in a document are found.
func TestDocumentedCommandsFindMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"    meros build shop --lokced\n":                         "--lokced",
		"    $ meros bulid shop\n    output\n":                    "bulid",
		"```\nmeros plan\n```\n":                                  `expected "<constellation>`,
		"See `meros cache prune`.\n":                              "prune",
		"    ./dist-conf.sh go run ./cmd/meros demo --loud\n":     "--loud",
		"    script:\n      - meros build shop --offline\n":       "--offline",
		"    eval \"$(meros completion tcsh)\"\n":                 "tcsh",
		"    meros doctor --json > a.json\n    meros doctr\n":     "doctr",
		"    meros build shop # all\n\n    meros build -x shop\n": "-x",
	} {
		found, unknown := shownCommands(text)
		var got []string
		for _, c := range found {
			if err := parseShown(c); err != nil {
				got = append(got, err.Error())
			}
		}
		if len(unknown) != 0 || len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("%q: got %q and unknown programs %q, want one error with %q", text, got, unknown, want)
		}
	}
	if _, unknown := shownCommands("    meros info\n    sudo reboot\n"); len(unknown) != 1 {
		t.Errorf("unknown programs: %q", unknown)
	}
	if found, unknown := shownCommands("`meros init` starts `shutdown`, see `meros VERB --help`.\n"); len(unknown) != 0 || len(found) != 1 || parseShown(found[0]) != nil {
		t.Errorf("got %v, %v", found, unknown)
	}
}

// TestDocumentedVerbs checks that the README's table has every verb.
func TestDocumentedVerbs(t *testing.T) {
	text := documents(t)["README.md"]
	_, table, _ := strings.Cut(text, "## The verbs")
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

// TestDocumentLinks checks that every link between documents leads to a file and
// a heading, and that the README links to every page.
func TestDocumentLinks(t *testing.T) {
	all := documents(t)
	link := regexp.MustCompile(`\]\(([^)\s:]+)\)`)
	linked := make(map[string]bool)
	for file, text := range all {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if file == "README.md" {
				if target = strings.TrimPrefix(target, "docs/"); anchor == "" {
					linked[target] = true
				}
			}
			if target = strings.TrimPrefix(target, "../"); target == "" {
				target = file
			}
			if _, ok := all[target]; !ok {
				t.Errorf("%s: the link %s leads nowhere", file, m[1])
			} else if anchor != "" && !slices.Contains(anchors(all[target]), anchor) {
				t.Errorf("%s: the link %s leads to no heading", file, m[1])
			}
		}
	}
	for file := range all {
		if file != "README.md" && !linked[file] {
			t.Errorf("the README does not link to docs/%s", file)
		}
	}
}

// anchors returns the names of a document's headings, as GitHub makes them.
func anchors(text string) []string {
	var all []string
	count := make(map[string]int)
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		a := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
		a = regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(a, "")
		a = strings.ReplaceAll(a, " ", "-")
		n := count[a]
		if count[a]++; n > 0 {
			a = fmt.Sprintf("%s-%d", a, n)
		}
		all = append(all, a)
	}
	return all
}

// TestReadmeLength checks that the README can be read in five minutes.
func TestReadmeLength(t *testing.T) {
	if n := strings.Count(documents(t)["README.md"], "\n"); n > 150 {
		t.Errorf("README.md has %d lines, want at most 150", n)
	}
}
