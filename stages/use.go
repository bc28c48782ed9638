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
)

// Names of the plan and the step, see names.go.
const (
	OutOmitted = "omitted" // JSON of the layer.Omission that the layer does not have
)

const useRevision = 8

// useTools are the programs by which an image is opened.
var useTools = []string{"qemu-img", "e2fsck", "resize2fs", "sfdisk", "fuse2fs"}

// Read adds the node that reads an image as it is; its output "layer" has the
// files of the root file system.
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

// useNode is the node that opens an image, which it is yet to be given, and grows
// it to a size in bytes or by what is to be free.
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

// use is an image that somebody else made, as the base of a machine: a disk
// that differences are made to, and its files for the hooks.
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

// baseImage is what errors call the image that a machine is made of.
const baseImage = "base image"

// ImageFile refuses what is no file with an image in it. containers tells
// whether it might be one of containers instead.
func ImageFile(file string, containers bool) error {
	fi, err := os.Stat(file)
	switch {
	case err != nil:
		return err
	case fi.IsDir() && containers:
		return errors.New("this is a directory (if an image of containers is in it: oci:PATH)")
	case fi.IsDir():
		return errors.New("this is a directory (name an image of a disk)")
	case !fi.Mode().IsRegular():
		return errors.New("this is no file (qemu-img convert makes one of a device)")
	}
	return nil
}

// imageOf gives a node an image, by path or URL. Errors call it what; sha256 is
// what the manifest says of the URL, or "".
func (pl *planner) imageOf(n *graph.Node, what, base, sha256 string) error {
	if constellations.ImageURL(base) {
		locked := pl.lock.Source(constellations.SourceImage, base, "")
		if locked == nil {
			return fmt.Errorf("the lock does not have %s (meros lock %s)", base, pl.m.Name)
		}
		if sha256 != "" && sha256 != locked.SHA256 {
			return fmt.Errorf("%s has the digest %s in the manifest and %s in the lock (meros update %s)", base, sha256, locked.SHA256, pl.m.Name)
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
