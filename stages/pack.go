// This file plans the images of a machine's disk. Stage pack makes the base that
// machines share, stage delta the difference of one machine, stage disk both in one.

package stages

import (
	"strconv"

	"meros/constellations"
	"meros/graph"
)

// Names of the plan and the step, see names.go.
const (
	InUpper = "upper" // layers above the base, unpacked

	OutDisk = "disk" // self-contained image
)

const (
	packRevision  = 1
	deltaRevision = 7
	diskRevision  = 1
)

// fuse is the device by which these stages read a qcow2 image as a raw file, where
// the host has it.
const fuse = "/dev/fuse"

// geometry returns the parameters of an image besides its content.
func geometry(vm *constellations.Machine, section *constellations.SectionLock) []graph.Param {
	return []graph.Param{
		epoch(section),
		{Name: ParamSize, Value: strconv.FormatInt(vm.DiskSize, 10)},
		{Name: ParamFreeMiB, Value: strconv.Itoa(vm.BuildFreeMB)},
		{Name: ParamLabel, Value: "root"},
	}
}

// packBase returns the image of the layers that a machine shares with others.
func (pl *planner) packBase(vm *constellations.Machine, section *constellations.SectionLock, lower []*graph.Node) *graph.Node {
	return pl.plan.Add(&graph.Node{
		Stage: "pack", Revision: packRevision, Name: baseName(vm) + " base image",
		Params: append(geometry(vm, section), pl.tools("mke2fs")...),
		Inputs: trees(InLower, lower), Outputs: []string{OutImage}, Needs: graph.Needs{Memory: 256 << 20},
	})
}

// packDelta returns the image of one machine: a small one with the base as its
// backing file, or a whole one where that is cheaper.
func (pl *planner) packDelta(pm *Machine, section *constellations.SectionLock, lower, upper []*graph.Node) (*graph.Node, error) {
	vm := pm.Machine
	n := &graph.Node{
		Stage: "delta", Revision: deltaRevision, Name: pl.name(vm, "image"),
		Params: append(geometry(vm, section), pl.tools("mke2fs", "debugfs")...),
		Inputs: []graph.Input{{Name: InBase, Node: pm.Base, Output: OutImage}}, Outputs: []string{OutImage},
		Devices: []string{fuse}, Needs: graph.Needs{Memory: 256 << 20},
	}
	if pm.Foreign {
		n.Inputs = append(n.Inputs, graph.Input{Name: InLayout, Node: pm.Base, Output: OutLayout})
		n.Params = append(n.Params, pl.tools("e2fsck")...)
		if err := pl.inGuest(pm, n); err != nil {
			return nil, err
		}
	}
	n.Inputs = append(append(n.Inputs, trees(InLower, lower)...), trees(InUpper, upper)...)
	return pl.plan.Add(n), nil
}

// disk returns the self-contained image in data/disks.
func (pl *planner) disk(vm *constellations.Machine, pm *Machine) *graph.Node {
	return pl.plan.Add(&graph.Node{
		Stage: "disk", Revision: diskRevision, Name: pl.name(vm, "disk"),
		Inputs: []graph.Input{
			{Name: InImage, Node: pm.Image, Output: OutImage},
			{Name: InBase, Node: pm.Base, Output: OutImage},
		},
		Outputs: []string{OutDisk}, Deliver: pm.DiskPath,
	})
}
