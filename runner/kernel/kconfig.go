// This file reads Kconfig files, to explain why an option does not take a value.

package kernel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// Symbols holds the options that the Kconfig files of a source define, with their
// dependencies (kernel document kbuild/kconfig-language).
type Symbols struct {
	known map[string][]definition
}

// definition is one place where an option is defined.
type definition struct {
	depends []string // expressions, all of which must hold
	prompt  bool     // a user can set it
}

// maxKconfig bounds the number of files. The kernel has 1,700.
const maxKconfig = 20_000

// maxKconfigDepth bounds the depth of files that source one another. The kernel's
// is 6.
const maxKconfigDepth = 64

// ReadSymbols reads the Kconfig files of the source in dir. srcArch is the name of
// the architecture's directory (SRCARCH: "x86", "arm64").
func ReadSymbols(dir, srcArch string) (*Symbols, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	r := &kconfigReader{root: root, arch: srcArch, symbols: &Symbols{known: make(map[string][]definition)}}
	if err := r.file("Kconfig"); err != nil {
		return nil, err
	}
	return r.symbols, nil
}

// Has reports whether an option exists.
func (s *Symbols) Has(name string) bool { return s.known[name] != nil }

// Names returns all options, sorted.
func (s *Symbols) Names() []string {
	names := make([]string, 0, len(s.known))
	for n := range s.known {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Explain returns the reasons why an option does not take a value in a
// configuration.
func (s *Symbols) Explain(name, want string, c Config) []string {
	definitions := s.known[name]
	if len(definitions) == 0 {
		return nil
	}
	var why []string
	add := func(format string, a ...any) {
		if l := fmt.Sprintf(format, a...); !slices.Contains(why, l) {
			why = append(why, l)
		}
	}
	met, prompt := false, false
	for _, d := range definitions {
		prompt = prompt || d.prompt
		unmet := 0
		for _, e := range d.depends {
			for _, term := range conjuncts(e) {
				if evaluate(term, c) == 0 {
					unmet++
					add("it depends on %s (%s)", term, values(term, c))
				}
			}
		}
		met = met || unmet == 0
	}
	switch {
	case met && !prompt:
		return []string{"it cannot be set, only other options select it"}
	case met && want == "n":
		return []string{"another option selects it"}
	case met && want == "m" && c.Value("MODULES") == "n":
		return []string{"CONFIG_MODULES is off, so nothing can be a module"}
	case met:
		return nil
	}
	return why
}

// kconfigReader follows the files from one to the next. It keeps the conditions
// that apply at the current line.
type kconfigReader struct {
	root    *os.Root
	arch    string
	symbols *Symbols
	files   int
	open    []string // from the first file to the current one
	scopes  []*scope
}

// scope is an open if, menu or choice.
type scope struct {
	kind    string
	depends []string
}

func (r *kconfigReader) file(name string) error {
	if r.files++; r.files > maxKconfig {
		return fmt.Errorf("more than %d Kconfig files", maxKconfig)
	}
	if slices.Contains(r.open, name) || len(r.open) == maxKconfigDepth {
		return fmt.Errorf("%s is sourced by itself, or %d files deep", name, maxKconfigDepth)
	}
	r.open = append(r.open, name)
	defer func() { r.open = r.open[:len(r.open)-1] }()
	src, err := r.root.ReadFile(name)
	if err != nil {
		return err
	}
	open := len(r.scopes)
	p := &kconfigFile{reader: r, lines: bufio.NewScanner(bytes.NewReader(src))}
	p.lines.Buffer(nil, maxLine)
	if err := p.statements(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.scopes = r.scopes[:min(open, len(r.scopes))]
	return nil
}

// kconfigFile is one file being read.
type kconfigFile struct {
	reader  *kconfigReader
	lines   *bufio.Scanner
	again   string // a line to read again
	hasLine bool

	current *definition // of the option that attributes apply to, or nil
	name    string
}

func (p *kconfigFile) next() (string, bool) {
	if p.hasLine {
		p.hasLine = false
		return p.again, true
	}
	line := ""
	for p.lines.Scan() {
		part := p.lines.Text()
		if s, ok := strings.CutSuffix(part, "\\"); ok {
			line += s + " "
			continue
		}
		return line + part, true
	}
	return line, line != ""
}

func (p *kconfigFile) statements() error {
	for {
		line, ok := p.next()
		if !ok {
			p.end()
			return p.lines.Err()
		}
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		word, tabbed, hasTab := strings.Cut(word, "\t")
		if hasTab {
			rest = tabbed + " " + rest
		}
		if err := p.statement(word, strings.TrimSpace(rest)); err != nil {
			return err
		}
	}
}

func (p *kconfigFile) statement(word, rest string) error {
	r := p.reader
	switch word {
	case "config", "menuconfig":
		p.end()
		p.name, p.current = rest, new(definition)
		for _, s := range r.scopes {
			p.current.depends = append(p.current.depends, s.depends...)
		}
	case "if":
		p.end()
		r.scopes = append(r.scopes, &scope{word, []string{rest}})
	case "menu", "choice":
		p.end()
		r.scopes = append(r.scopes, &scope{kind: word})
	case "endif", "endmenu", "endchoice":
		p.end()
		if len(r.scopes) > 0 {
			r.scopes = r.scopes[:len(r.scopes)-1]
		}
	case "source", "rsource", "osource", "orsource":
		p.end()
		return p.source(rest)
	case "depends":
		p.depends(strings.TrimSpace(strings.TrimPrefix(rest, "on")))
	case "bool", "tristate", "string", "int", "hex", "prompt":
		if p.current != nil && strings.ContainsAny(rest, `"'`) {
			p.current.prompt = true
		}
	case "help", "---help---":
		p.skipHelp()
	}
	return nil
}

// depends adds a condition to the current option, or to the menu or choice that
// just began.
func (p *kconfigFile) depends(expr string) {
	expr, _, _ = strings.Cut(expr, "#")
	expr = strings.TrimSpace(expr)
	if p.current != nil {
		p.current.depends = append(p.current.depends, expr)
	} else if n := len(p.reader.scopes); n > 0 && p.reader.scopes[n-1].kind != "if" {
		p.reader.scopes[n-1].depends = append(p.reader.scopes[n-1].depends, expr)
	}
}

// end completes the current option.
func (p *kconfigFile) end() {
	if p.current != nil {
		p.reader.symbols.known[p.name] = append(p.reader.symbols.known[p.name], *p.current)
	}
	p.current = nil
}

func (p *kconfigFile) source(rest string) error {
	name := strings.Trim(rest, `"'`)
	name = strings.NewReplacer("$(SRCARCH)", p.reader.arch, "$SRCARCH", p.reader.arch, "$(HEADER_ARCH)", p.reader.arch).Replace(name)
	if strings.Contains(name, "$") {
		return nil // the build system generates the name
	}
	err := p.reader.file(path.Clean(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// skipHelp skips a help text. The text ends at the first line with less indentation
// than its first line.
func (p *kconfigFile) skipHelp() {
	indent := -1
	for {
		line, ok := p.next()
		if !ok {
			return
		}
		text := strings.ReplaceAll(line, "\t", "        ")
		if strings.TrimSpace(text) == "" {
			continue
		}
		n := len(text) - len(strings.TrimLeft(text, " "))
		if indent < 0 {
			indent = n
		}
		if n < indent || n == 0 {
			p.again, p.hasLine = line, true
			return
		}
	}
}
