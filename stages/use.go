package stages

import (
	"errors"
	"strconv"

	"meros/constellations"
	"meros/graph"
)

const useRevision = 1

// use is an image that somebody else made, as the base of a machine: a disk
// that differences are made to, and its files for the hooks.
func (pl *planner) use(vm *constellations.Machine, section *constellations.SectionLock) (*graph.Node, error) {
	if len(vm.Packages) > 0 {
		return nil, errors.New("packages are not installed into an image that is there already (a hook with \"hooks: {network: true}\" can do that)")
	}
	file, err := pl.find("base image", vm.Base)
	if err != nil {
		return nil, err
	}
	l, err := pl.file("image", file)
	if err != nil {
		return nil, err
	}
	return pl.plan.Add(&graph.Node{
		Stage: "use", Revision: useRevision, Name: pl.name(vm, "base image"),
		Params: append([]graph.Param{
			epoch(section), {Name: "size", Value: strconv.FormatInt(vm.DiskSize, 10)}, {Name: "free-mib", Value: strconv.Itoa(vm.BuildFreeMB)},
		}, pl.tools("qemu-img", "e2fsck", "resize2fs", "sfdisk", "fuse2fs")...),
		Locals:  []graph.Local{*l},
		Outputs: []string{"image", "layout", "layer", "accounts"},
		Devices: []string{fuse}, Needs: graph.Needs{Memory: 256 << 20},
	}), nil
}
