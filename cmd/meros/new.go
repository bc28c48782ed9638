// This file is the verb new: it creates a constellation from a template.

package main

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"meros/constellations"
	"meros/runner/hint"
)

// templates holds a constellation in each directory. NAME in a file stands for the name
// of the new constellation.
//
//go:embed templates
var templates embed.FS

type newCmd struct {
	Name string `arg:"" help:"Name of the new constellation."`
	From string `enum:"debian,alpine,lab" default:"debian" help:"Template: ${enum}."`
}

// Run implements the verb.
func (c *newCmd) Run(e *env) error { return makeConstellation(e, c.Name, c.From) }

// makeConstellation copies a template to a new directory.
func makeConstellation(e *env, name, from string) error {
	if !constellations.IsName(name) {
		return usageError{hint.Add(fmt.Errorf("%q cannot be the name of a constellation", name), "use small letters, digits, hyphens and underscores")}
	}
	dir := filepath.Join(e.constellationsDir(), name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		if os.IsExist(err) {
			err = usageError{fmt.Errorf("there is already a constellation %q in %s", name, dir)}
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
		return fmt.Errorf("create the constellation %s: %w", name, err)
	}
	e.ui.say("%s", filepath.Join(dir, "manifest.yml"))
	e.ui.note("`meros init %s` builds and boots it", name)
	return nil
}
