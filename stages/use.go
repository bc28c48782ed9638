// This file plans a foreign image as the base of a machine or as a further disk.

package stages

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"meros/constellations"
	"meros/graph"
	"meros/runner/hint"
)

// Names of the plan and the step, see names.go.
const (
	OutOmitted = "omitted" // JSON of the layer.Omission that the layer does not have
)

const useRevision = 8

// useTools lists the programs that open an image.
var useTools = []string{"qemu-img", "e2fsck", "resize2fs", "sfdisk", "fuse2fs"}

// Read adds the node that reads an image without changing it. Its output "layer" has
// the files of the root file system.
func Read(p *graph.Plan, file string, stats *graph.StatCache) (*graph.Node, error) {
	var tools []graph.Param
	for _, t := range useTools {
		tools = append(tools, graph.Param{Name: ParamTool + t, Value: ToolIdentity(t, stats)})
	}
	n := useNode("image "+filepath.Base(file), graph.Param{Name: ParamEpoch, Value: "0"}, 0, 0, tools)
	l, err := graph.ReadLocal(InImage, file, nil, stats)
	if err != nil {
		return nil, err
	}
	n.Locals = []graph.Local{l}
	return p.Add(n), nil
}

// useNode returns the node that opens an image and grows it: to a size in bytes, or
// until freeMiB are free. The caller adds the image.
func useNode(name string, epoch graph.Param, size int64, freeMiB int, tools []graph.Param) *graph.Node {
	return &graph.Node{
		Stage: "use", Revision: useRevision, Name: name,
		Params: append([]graph.Param{
			epoch, {Name: ParamSize, Value: strconv.FormatInt(size, 10)}, {Name: ParamFreeMiB, Value: strconv.Itoa(freeMiB)},
		}, tools...),
		Outputs: []string{OutImage, OutLayout, OutLayer, OutAccounts, OutOmitted},
		Devices: []string{fuse}, Needs: graph.Needs{Memory: 256 << 20},
	}
}

// use returns the node of a foreign image as the base of a machine. It gives the image
// below the machine's own, and the layer of its files for the hooks.
func (pl *planner) use(pm *Machine, section *constellations.SectionLock) (*graph.Node, error) {
	vm := pm.Machine
	n := useNode(pl.name(vm, "base image"), epoch(section), vm.DiskSize, vm.BuildFreeMB, pl.tools(useTools...))
	n.Params = append(n.Params, graph.Param{Name: ParamArch, Value: pm.Arch})
	if err := pl.inGuest(pm, n); err != nil {
		return nil, err
	}
	if err := pl.imageOf(n, baseImage, vm.Base, vm.BaseSHA256); err != nil {
		return nil, err
	}
	return pl.plan.Add(n), nil
}

// baseImage is the name, in errors, of the image that is the base of a machine.
const baseImage = "base image"

// ImageFile returns an error if the file cannot hold a disk image. container says that
// a container image would be allowed as well.
func ImageFile(file string, container bool) error {
	fi, err := os.Stat(file)
	switch {
	case err != nil:
		return err
	case fi.IsDir() && container:
		return hint.Add(errors.New("this is a directory"), "`oci:PATH` reads a container image in a directory")
	case fi.IsDir():
		return hint.Add(errors.New("this is a directory"), "name a file with a disk image")
	case !fi.Mode().IsRegular():
		return hint.Add(errors.New("this is not a regular file"), "convert a device with `qemu-img convert`")
	}
	return nil
}

// imageOf gives a node an image, by path or URL. Errors call it what. sha256 is the
// digest that the manifest has for the URL, or "".
func (pl *planner) imageOf(n *graph.Node, what, base, sha256 string) error {
	if constellations.ImageURL(base) {
		locked := pl.lock.Source(constellations.SourceImage, base, "")
		if locked == nil {
			return pl.unlocked(base)
		}
		if sha256 != "" && sha256 != locked.SHA256 {
			return pl.otherDigest(base, sha256, locked.SHA256)
		}
		n.Inputs = append(n.Inputs, graph.Input{Name: InImage, Node: pl.fetchURLs(path.Base(base), []string{base}, locked.SHA256, locked.Size), Output: OutFile})
		return nil
	}
	file, err := pl.find(what, base)
	if err != nil {
		return err
	}
	if err := ImageFile(file, what == baseImage); err != nil {
		return fmt.Errorf("%s %s: %w", what, base, err)
	}
	l, err := pl.file(InImage, file)
	if err == nil {
		n.Locals = append(n.Locals, *l)
	}
	return err
}
