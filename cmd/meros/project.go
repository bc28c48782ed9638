// This file knows the directories of a project: the constellations that its users write,
// and the state of meros below data/. It opens and makes nothing.

package main

import (
	"path/filepath"

	"meros/graph/record"
	"meros/runner/vm"
)

// project is a directory that holds constellations/ and data/.
type project struct{ root string }

// constellationsDir holds a directory for each constellation.
func (p project) constellationsDir() string { return filepath.Join(p.root, "constellations") }

// dataDir holds all state.
func (p project) dataDir() string { return filepath.Join(p.root, "data") }

// cacheDir holds the store of artifacts. It may be a link or a mount.
func (p project) cacheDir() string { return filepath.Join(p.dataDir(), "cache") }

// partialDir holds unfinished downloads.
func (p project) partialDir() string { return filepath.Join(p.cacheDir(), "partial") }

// recordsDir holds the records of builds.
func (p project) recordsDir() string { return filepath.Join(p.cacheDir(), "builds") }

// scratchDir holds the scratch directories of runs. It lies in the store so that
// a run can rename its outputs into place: rename(2) fails between two mounts,
// even of one file system.
func (p project) scratchDir() string { return filepath.Join(p.cacheDir(), "build") }

// oldScratchDir held the scratch directories of earlier versions.
func (p project) oldScratchDir() string { return filepath.Join(p.dataDir(), "build") }

// disksDir holds the images and kernels that builds deliver.
func (p project) disksDir() string { return filepath.Join(p.dataDir(), "disks") }

// sshDir holds the user's key pair and the keys of machines.
func (p project) sshDir() string { return filepath.Join(p.dataDir(), "ssh") }

// stateDir holds a directory for each constellation that has machines.
func (p project) stateDir() string { return filepath.Join(p.dataDir(), "state") }

// reportsDir holds the pages of meros report.
func (p project) reportsDir() string { return filepath.Join(p.dataDir(), "reports") }

// records returns the records of the project's builds.
func (p project) records() record.Store { return record.Store{Dir: p.recordsDir()} }

// group returns the machines of a constellation.
func (p project) group(name string) *vm.Group {
	return &vm.Group{
		Name: name, State: filepath.Join(p.stateDir(), name),
		Keys: filepath.Join(p.sshDir(), name), SSH: filepath.Join(p.sshDir(), "id_ed25519"),
	}
}
