package main

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"meros/constellations"
)

// templates are constellations to begin with, by their names. NAME in their
// files stands for the new one's.
//
//go:embed templates
var templates embed.FS

type newCmd struct {
	Name string `arg:"" help:"Name of the new constellation."`
	From string `enum:"debian,alpine,lab" default:"debian" help:"What it begins as: ${enum}."`
}

// Run implements the verb: it makes a constellation that builds.
func (c *newCmd) Run(e *env) error {
	if !constellations.IsName(c.Name) {
		return usageError{fmt.Errorf("%q cannot be the name of a constellation: small letters, digits, hyphens and underscores", c.Name)}
	}
	dir := filepath.Join(e.root, "constellations", c.Name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		if os.IsExist(err) {
			err = usageError{fmt.Errorf("there is a constellation %q already, in %s", c.Name, dir)}
		}
		return err
	}
	from := "templates/" + c.From
	err := fs.WalkDir(templates, from, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == from {
			return err
		}
		to := filepath.Join(dir, filepath.FromSlash(strings.TrimPrefix(name, from+"/")))
		if d.IsDir() {
			return os.Mkdir(to, 0o755)
		}
		b, err := templates.ReadFile(name)
		if err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, ".chroot") {
			mode = 0o755
		}
		return os.WriteFile(to, []byte(strings.ReplaceAll(string(b), "NAME", c.Name)), mode)
	})
	if err != nil {
		os.RemoveAll(dir)
		return fmt.Errorf("make the constellation %s: %w", c.Name, err)
	}
	e.ui.say("%s", filepath.Join(dir, "manifest.yml"))
	e.ui.note("meros init %s builds and boots it", c.Name)
	return nil
}
