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
func (c *newCmd) Run(e *env) error { return makeConstellation(e, c.Name, c.From) }

// makeConstellation copies a template to a new directory.
func makeConstellation(e *env, name, from string) error {
	if !constellations.IsName(name) {
		return usageError{fmt.Errorf("%q cannot be the name of a constellation: small letters, digits, hyphens and underscores", name)}
	}
	dir := filepath.Join(e.constellationsDir(), name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		if os.IsExist(err) {
			err = usageError{fmt.Errorf("there is a constellation %q already, in %s", name, dir)}
		}
		return err
	}
	top := "templates/" + from
	err := fs.WalkDir(templates, top, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == top {
			return err
		}
		to := filepath.Join(dir, filepath.FromSlash(strings.TrimPrefix(file, top+"/")))
		if d.IsDir() {
			return os.Mkdir(to, 0o755)
		}
		b, err := templates.ReadFile(file)
		if err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if strings.HasSuffix(file, ".chroot") {
			mode = 0o755
		}
		return os.WriteFile(to, []byte(strings.ReplaceAll(string(b), "NAME", name)), mode)
	})
	if err != nil {
		os.RemoveAll(dir)
		return fmt.Errorf("make the constellation %s: %w", name, err)
	}
	e.ui.say("%s", filepath.Join(dir, "manifest.yml"))
	e.ui.note("meros init %s builds and boots it", name)
	return nil
}
