// This file is the verb man: it writes the manual pages from the help strings.

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type manCmd struct {
	Dir string `arg:"" optional:"" help:"Directory for the pages, meros.1, meros-build.1 and so on (default: print all pages)."`
}

// Run implements the verb. The pages are in the language of man(7).
func (c *manCmd) Run(e *env, app *kong.Application) error {
	for _, n := range verbsOf(app.Node) {
		var page strings.Builder
		manPage(&page, n)
		if c.Dir == "" {
			e.ui.write(page.String())
			continue
		}
		if err := os.MkdirAll(c.Dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(c.Dir, manName(n)+".1"), []byte(page.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// verbsOf returns a command and the visible commands below it.
func verbsOf(n *kong.Node) []*kong.Node {
	all := []*kong.Node{n}
	for _, child := range n.Children {
		if !child.Hidden {
			all = append(all, verbsOf(child)...)
		}
	}
	return all
}

// manName returns the name of a verb's page.
func manName(n *kong.Node) string { return strings.ReplaceAll(fullName(n), " ", "-") }

// fullName returns the words of a verb.
func fullName(n *kong.Node) string {
	if n.Parent == nil {
		return n.Name
	}
	return fullName(n.Parent) + " " + n.Name
}

// roff quotes text so that man(7) prints it as it is.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

// manPage writes the page of one verb.
func manPage(w io.Writer, n *kong.Node) {
	fmt.Fprintf(w, ".TH %s 1 \"\" meros \"meros manual\"\n.SH NAME\n%s \\- %s\n", strings.ToUpper(roff(manName(n))), roff(manName(n)), roff(strings.TrimSuffix(n.Help, ".")))
	fmt.Fprintf(w, ".SH SYNOPSIS\n.B %s\n%s\n", roff(fullName(n)), roff(synopsis(n)))
	if n.Detail != "" {
		fmt.Fprintf(w, ".SH DESCRIPTION\n%s\n", roff(n.Detail))
	}
	if len(n.Positional) > 0 {
		fmt.Fprint(w, ".SH ARGUMENTS\n")
		for _, p := range n.Positional {
			fmt.Fprintf(w, ".TP\n.I %s\n%s\n", roff(strings.ToUpper(p.Name)), roff(help(p)))
		}
	}
	if flags := ownFlags(n); len(flags) > 0 {
		fmt.Fprint(w, ".SH OPTIONS\n")
		for _, f := range flags {
			fmt.Fprintf(w, ".TP\n.B %s\n%s\n", roff(flagName(f)), roff(help(f.Value)))
		}
	}
	if n.Parent != nil {
		fmt.Fprintf(w, ".PP\nOptions of all verbs are in\n.BR meros (1).\n")
	}
	children := slices.DeleteFunc(slices.Clone(n.Children), func(c *kong.Node) bool { return c.Hidden })
	if len(children) > 0 {
		fmt.Fprint(w, ".SH COMMANDS\n")
		for _, c := range children {
			fmt.Fprintf(w, ".TP\n.BR %s (1)\n%s\n", roff(manName(c)), roff(c.Help))
		}
	}
	if n.Parent == nil {
		fmt.Fprint(w, manRest)
	}
}

// manRest ends the first page.
const manRest = `.SH EXIT STATUS
.TP
.B 0
success
.TP
.B 1
failure
.TP
.B 2
the command line, a manifest or a lock is wrong
.TP
.B 130
interrupted; finished stages are in the cache
.PP
.B meros connect
and
.B meros run
pass on the status of their program, or 255 if ssh fails.
.B meros diff --exit-code
exits with 1 if there are differences,
.B meros doctor
if nothing can be built here,
.B meros cache verify
if files are damaged, and
.B meros cache gc
if the limit cannot be met.
.SH ENVIRONMENT
.TP
.B MEROS_CACHE_SIZE
size above which builds clean the cache, such as 20G; 0 means no limit
.TP
.B MEROS_SNAPSHOT
base URL of a snapshot service, for Debian packages that the mirror no longer has,
such as https://snapshot.example/archive
.TP
.B NO_COLOR
if it is set, there are no colours
.TP
.BR http_proxy ", " https_proxy ", " no_proxy
proxies; for packages of Debian and Ubuntu, the configuration of apt counts too
.TP
.BR REGISTRY_AUTH_FILE ", " DOCKER_CONFIG
files with the credentials of registries, as for podman, skopeo and docker
.SH FILES
.TP
.I constellations/NAME/manifest.yml
the machines and networks of a constellation
.TP
.I constellations/NAME/meros.lock
the digests of everything that it downloads
.TP
.I data/
the cache, the images, and the state of running machines
`

// synopsis returns the arguments of a verb.
func synopsis(n *kong.Node) string {
	var words []string
	if len(n.Children) > 0 {
		words = append(words, "COMMAND")
	}
	for _, p := range n.Positional {
		name := strings.ToUpper(p.Name)
		if p.IsCumulative() {
			name += "..."
		}
		if !p.Required {
			name = "[" + name + "]"
		}
		words = append(words, name)
	}
	return strings.Join(append(words, "[OPTIONS]"), " ")
}

// ownFlags returns the flags of the verb itself.
func ownFlags(n *kong.Node) []*kong.Flag {
	return slices.DeleteFunc(slices.Clone(n.Flags), func(f *kong.Flag) bool { return f.Hidden || n.Parent != nil && f.Name == "help" })
}

// flagName returns a flag with its placeholder.
func flagName(f *kong.Flag) string {
	name := "--" + f.Name
	if f.Short != 0 {
		name = "-" + string(f.Short) + ", " + name
	}
	if !f.IsBool() {
		name += "=" + f.FormatPlaceHolder()
	}
	return name
}

// help returns the help text of an argument or a flag.
func help(v *kong.Value) string {
	text := strings.ReplaceAll(v.Help, "${enum}", strings.Join(v.EnumSlice(), ", "))
	if v.Tag != nil && len(v.Tag.Envs) > 0 {
		text += " ($" + strings.Join(v.Tag.Envs, ", $") + ")"
	}
	return text
}
