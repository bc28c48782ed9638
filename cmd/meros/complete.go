// This file is the verbs completion and complete: shells ask this program for the
// completions of a word.

package main

import (
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"meros/constellations"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"Shell: ${enum}."`
}

// completions are the scripts for the shells. Each one prints the output of "meros
// complete", and file names where that asks for them.
var completions = map[string]string{
	"bash": `# eval "$(meros completion bash)"
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
_meros() {
	local line word=${COMP_WORDS[COMP_CWORD]} IFS=$'\n'
	COMPREPLY=()
	for line in $(meros complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null); do
		if [ "$line" = : ]; then
			COMPREPLY+=($(compgen -f -- "$word"))
			compopt -o filenames 2>/dev/null
		else
			COMPREPLY+=("$(printf %q "${line%%$'\t'*}")")
		fi
	done
}
complete -F _meros meros
`,
	"zsh": `#compdef meros
# eval "$(meros completion zsh)"
_meros() {
	local line
	local -a found
	for line in ${(f)"$(meros complete -- ${words[2,CURRENT]} 2>/dev/null)"}; do
		if [[ $line == : ]]; then
			_files
		else
			found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
		fi
	done
	(( $#found )) && _describe meros found
}
if [[ $funcstack[1] == _meros ]]; then _meros; else compdef _meros meros; fi
`,
	"fish": `# meros completion fish | source
function __meros_complete
	set -l words (commandline -opc) (commandline -ct)
	for line in (meros complete -- $words[2..-1] 2>/dev/null)
		if test "$line" = :
			__fish_complete_path (commandline -ct)
		else
			echo $line
		end
	end
end
complete -c meros -f -a '(__meros_complete)'
`,
}

// Run implements the verb.
func (c *completionCmd) Run(e *env) error {
	e.ui.write(completions[c.Shell])
	return nil
}

// rootless are the verbs that need no directory of constellations.
var rootless = []string{"completion ", "complete", "man", "schema", "doctor"}

type completeCmd struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

// Run implements the verb: it prints the completions of the last word, each with a tab and
// a description. ":" stands for file names.
func (c *completeCmd) Run(e *env, app *kong.Application) error {
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	if len(words) == 0 {
		words = []string{""}
	}
	for _, l := range (&completer{project: e.project, node: app.Node}).complete(words) {
		e.ui.say("%s", l)
	}
	return nil
}

// completer walks through an incomplete command line.
type completer struct {
	project
	node  *kong.Node // the verb so far
	args  []string   // positional arguments
	value *kong.Flag // the flag whose value comes next
}

// complete returns the completions of the last word.
func (c *completer) complete(words []string) []string {
	last := words[len(words)-1]
	for _, w := range words[:len(words)-1] {
		c.word(w)
	}
	if c.value == nil && strings.HasPrefix(last, "--") && strings.Contains(last, "=") {
		name, part, _ := strings.Cut(last, "=")
		if f := c.flag(name); f != nil {
			var all []string
			for _, v := range c.values(f.Value) {
				all = append(all, name+"="+v)
			}
			return matching(all, name+"="+part)
		}
		return nil
	}
	switch {
	case c.value != nil:
		return matching(c.values(c.value.Value), last)
	case strings.HasPrefix(last, "-"):
		return matching(c.flags(), last)
	case len(c.node.Children) > 0:
		return matching(c.verbs(), last)
	}
	return matching(c.positional(), last)
}

// word takes a word before the last one.
func (c *completer) word(w string) {
	if c.value != nil {
		c.value = nil
		return
	}
	if strings.HasPrefix(w, "-") {
		if f := c.flag(w); f != nil && !f.IsBool() && !strings.Contains(w, "=") {
			c.value = f
		}
		return
	}
	for _, child := range c.node.Children {
		if child.Name == w || slices.Contains(child.Aliases, w) {
			c.node = child
			return
		}
	}
	c.args = append(c.args, w)
}

// flag returns the flag that a word names, of the verb or of a verb above it.
func (c *completer) flag(word string) *kong.Flag {
	name, _, _ := strings.Cut(word, "=")
	for _, group := range c.node.AllFlags(true) {
		for _, f := range group {
			if "--"+f.Name == name || f.Short != 0 && "-"+string(f.Short) == name {
				return f
			}
		}
	}
	return nil
}

func (c *completer) flags() []string {
	var all []string
	for _, group := range c.node.AllFlags(true) {
		for _, f := range group {
			all = append(all, "--"+f.Name+"\t"+firstSentence(f.Help))
		}
	}
	return all
}

func (c *completer) verbs() []string {
	var all []string
	for _, child := range c.node.Children {
		if !child.Hidden {
			all = append(all, child.Name+"\t"+firstSentence(child.Help))
		}
	}
	return all
}

// positional returns the completions of the next argument.
func (c *completer) positional() []string {
	ps := c.node.Positional
	if len(ps) == 0 {
		return nil
	}
	p := ps[min(len(c.args), len(ps)-1)]
	if len(c.args) >= len(ps) && !p.IsCumulative() {
		return nil
	}
	return c.values(p)
}

// values returns the completions of an argument or a flag, by its name.
func (c *completer) values(v *kong.Value) []string {
	switch {
	case len(v.EnumSlice()) > 0 && v.Enum != "":
		return v.EnumSlice()
	case v.Name == "constellation" || v.Name == "what" && c.node.Name == "pin":
		names, _ := constellations.List(c.root)
		return names
	case v.Name == "machine":
		return c.machines()
	case v.Name == "stage" || v.Name == "rebuild":
		return c.stages()
	case v.Name == "build" || v.Name == "from" || v.Name == "to" || v.Name == "what" || v.Name == "a" || v.Name == "b":
		names, _ := constellations.List(c.root)
		ids, _ := c.records().IDs("")
		slices.Reverse(ids)
		return append(names, ids...)
	}
	return []string{":"}
}

// machines returns the machines of the constellation, except those on the command line.
func (c *completer) machines() []string {
	if len(c.args) == 0 {
		return nil
	}
	m, err := constellations.Find(c.root, c.args[0])
	if err != nil {
		return nil
	}
	var names []string
	for _, vm := range m.Machines {
		if !slices.Contains(c.args[1:], vm.Name) {
			names = append(names, vm.Name)
		}
	}
	return names
}

// stages returns the stages of the newest build of the constellation.
func (c *completer) stages() []string {
	if len(c.args) == 0 {
		return nil
	}
	name, _, _ := strings.Cut(c.args[0], "/")
	b, err := c.records().Find(name)
	if err != nil {
		return nil
	}
	var names []string
	for _, s := range b.Stages {
		if s.Stage != "fetch" {
			names = append(names, s.Name)
		}
	}
	return names
}

// matching returns the completions that begin with part.
func matching(all []string, part string) []string {
	return slices.DeleteFunc(all, func(s string) bool { return s != ":" && !strings.HasPrefix(s, part) })
}

// firstSentence returns the beginning of a help text, for a list.
func firstSentence(help string) string {
	s, _, _ := strings.Cut(help, ": ")
	s, _, _ = strings.Cut(s, " (")
	return strings.TrimSuffix(s, ".")
}
