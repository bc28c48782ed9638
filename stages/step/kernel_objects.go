// This file saves the objects of a compiled kernel for later ones. They are in no
// key: they only make a compilation faster.

package step

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"meros/stages"

	"golang.org/x/sys/unix"
)

// objectsDir is the directory of the saved objects, in the step's sandbox and in the
// compiler's.
const objectsDir = "/objects"

// objects is the directory that a kernel is compiled in.
//
// The first kernel that a toolchain compiles from a source leaves its objects here.
// Later ones, which differ only in their configuration, are compiled over them. make
// then compiles only the files that depend on changed options (kernel document
// kbuild/makefiles, "fixdep"). Nothing writes to saved objects. So every kernel is at
// most one step away from a clean build, and no objects of an interrupted build are
// ever used.
type objects struct {
	dir   string
	final string   // where save moves dir; "" if it does not
	lock  *os.File // on the directory that other runs must not remove while this one lives
}

// maxObjects is the largest size of objects that save accepts, in bytes.
const maxObjects = 3 << 30

// openObjects makes the directory: an overlay over saved objects, if there are any.
func (s *step) openObjects() (*objects, error) {
	home := filepath.Join(objectsDir, s.objectsID())
	kept := filepath.Join(home, "kept")
	if _, err := os.Lstat(kept); err == nil {
		dirs := make([]string, 3)
		for i, name := range []string{"obj", "obj-upper", "obj-scratch"} {
			if dirs[i], err = s.workDir(name); err != nil {
				return nil, err
			}
		}
		lock, err := os.Open(kept)
		if err == nil {
			err = unix.Flock(int(lock.Fd()), unix.LOCK_SH)
		}
		if err == nil {
			err = mountOverlay(dirs[0], []string{kept}, dirs[1], dirs[2])
		}
		fmt.Fprintln(s.log, "using the objects of an earlier kernel from the same source")
		return &objects{dir: dirs[0], lock: lock}, err
	}
	if err := os.MkdirAll(home, 0o755); err != nil {
		return nil, err
	}
	s.reclaimObjects(home)
	dir, err := os.MkdirTemp(home, "new-*")
	if err != nil {
		return nil, err
	}
	lock, err := os.Open(dir)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	return &objects{dir: dir, final: kept, lock: lock}, err
}

// objectsID returns the same value for kernels that differ only in their configuration.
func (s *step) objectsID() string {
	h := sha256.New()
	fmt.Fprintf(h, "%s %s\n", s.Params[stages.ParamArch], s.Params[stages.ParamToolchain])
	for _, in := range s.Inputs {
		if in.Name != stages.InConfig {
			fmt.Fprintf(h, "%s %s\n", in.Name, in.Digest)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// reclaimObjects removes the directories that dead runs left in home, and the objects of
// other sources. Each place retains the objects of one source.
func (s *step) reclaimObjects(home string) {
	others, _ := filepath.Glob(filepath.Join(objectsDir, "*", "*"))
	for _, dir := range others {
		if filepath.Dir(dir) == home && !strings.HasPrefix(filepath.Base(dir), "new-") {
			continue
		}
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			if err := os.RemoveAll(dir); err != nil {
				fmt.Fprintf(s.log, "note: cannot remove %s: %v\n", dir, err)
			}
			if filepath.Dir(dir) != home {
				os.Remove(filepath.Dir(dir)) // if it is empty
			}
		}
		f.Close()
	}
}

// save moves the objects to where later kernels find them.
func (o *objects) save() error {
	if o.final == "" {
		return nil
	}
	var size int64
	err := filepath.WalkDir(o.dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if fi, err := d.Info(); err == nil {
				size += fi.Size()
			}
		}
		return err
	})
	if err != nil || size > maxObjects {
		return err
	}
	if err := os.Rename(o.dir, o.final); err != nil && !os.IsExist(err) {
		return err
	}
	return nil
}

// close removes objects that were not saved.
func (o *objects) close() {
	if o.final != "" {
		os.RemoveAll(o.dir)
	}
	o.lock.Close()
}
