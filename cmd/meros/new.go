package main

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"meros/constellations"
	"meros/stages"
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

type validateCmd struct {
	Constellation []string `arg:"" optional:"" help:"Names of constellations (default: all)."`
}

// Run implements the verb: it reads manifests and locks, and builds nothing.
func (c *validateCmd) Run(e *env) error {
	var first error
	err := each(e, c.Constellation, func(name string) error {
		text, err := validate(e, name)
		if err != nil {
			if first != nil {
				e.ui.fail(first)
			}
			first = err // the last one is told by the caller
			return nil
		}
		e.ui.say("%s", text)
		return nil
	})
	if first != nil {
		return first
	}
	return err
}

// validate is what there is to say of a constellation that is right.
func validate(e *env, name string) (string, error) {
	m, machines, err := (&buildCmd{Constellation: name}).load(e)
	if err != nil {
		return "", err
	}
	lock, err := readLock(m)
	if err != nil {
		return "", err
	}
	if err := diskCollision(e, m, machines); err != nil {
		return "", err
	}
	if err := canRun(e, m, machines); err != nil {
		return "", err
	}
	if err := adviseUnread(e, m); err != nil {
		return "", err
	}
	text := fmt.Sprintf("%s: %d machines; ", name, len(machines))
	if missing := lock.Unpinned(stages.Needs(machines)); len(missing) > 0 {
		return text + fmt.Sprintf("not pinned yet: %v (meros lock %s)", missing[0], name), nil
	}
	// A plan finds all files that are named.
	w := &workplace{data: filepath.Join(e.root, "data")}
	w.readMemory()
	for _, vm := range machines {
		_, _, _, err := (&buildCmd{Constellation: name, Boot: true}).plan(e, w, m, []*constellations.Machine{vm}, lock)
		if err != nil && !errors.As(err, new(*stages.NoProgramError)) { // which is not the manifest's fault
			return "", usageError{err}
		}
	}
	return text + "the lock pins all of it", nil
}

// canRun finds what machines could not be started with, however they are built.
func canRun(e *env, m *constellations.Manifest, machines []*constellations.Machine) error {
	if _, err := newNetworks(m); err != nil {
		return err
	}
	for _, vm := range machines {
		if _, err := sharesOf(m, vm, e.root); err != nil {
			return err
		}
	}
	return nil
}

// adviseUnread tells of files that their author most likely took for used.
func adviseUnread(e *env, m *constellations.Manifest) error {
	unread, err := stages.Unread(m)
	for _, text := range unread {
		e.ui.note("%s/%s", m.Name, text)
	}
	return err
}
