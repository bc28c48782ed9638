package stages

import (
	"errors"

	"meros/graph"
)

// Names of the plan and the step, see names.go.
const (
	ParamCompress = "compress" // "zstd" or ""
)

const exportRevision = 1

// exportFormats are the forms in which a machine can be given to others, with
// the end of a file's name.
var exportFormats = map[string]string{
	"qcow2": ".qcow2", "raw": ".raw", "tar": ".tar", "oci": ".oci.tar", "squashfs": ".squashfs", "erofs": ".erofs",
}

// ExportEnding is the end of the name of a file with a machine in that form.
func ExportEnding(format, compress string) string {
	ending := exportFormats[format]
	if compress != "" && (format == "raw" || format == "tar") {
		ending += ".zst"
	}
	return ending
}

// OfTree tells whether the form is one of the files of the root file system, and
// not of the disk.
func OfTree(format string) bool { return format != "qcow2" && format != "raw" }

// ErrOnlyDisk is why a machine has no form of its files.
var ErrOnlyDisk = errors.New("hooks that run in the machine itself leave an image of its disk, which is exported as qcow2 or raw")

// exportTools make the formats that meros does not write itself.
var exportTools = map[string]string{"squashfs": "mksquashfs", "erofs": "mkfs.erofs", "raw": "qemu-img", "qcow2": "qemu-img"}

// ExportTool is the program that makes a format, or "".
func ExportTool(format string) string { return exportTools[format] }

// Export adds the node that puts a machine into a file: its disk, or the files
// of its root file system. compress is "zstd" or "".
func Export(p *graph.Plan, pm *Machine, o Options, format, compress, file string) *graph.Node {
	n := &graph.Node{
		Stage: "export", Revision: exportRevision, Name: pm.Constellation + "/" + pm.Name + " as " + format,
		Params:  []graph.Param{{Name: ParamFormat, Value: format}, {Name: ParamCompress, Value: compress}, {Name: ParamEpoch, Value: pm.Image.Param(ParamEpoch)}},
		Outputs: []string{OutFile}, Deliver: file,
	}
	if t := ExportTool(format); t != "" {
		n.Params = append(n.Params, graph.Param{Name: ParamTool + t, Value: o.Tools[t]})
	}
	switch format {
	case "qcow2", "raw":
		n.Inputs = []graph.Input{{Name: InImage, Node: pm.Image, Output: OutImage}, {Name: InBase, Node: pm.Base, Output: OutImage}}
	case "oci":
		n.Params = append(n.Params, graph.Param{Name: ParamArch, Value: pm.Arch})
		for _, l := range pm.Layers {
			n.Inputs = append(n.Inputs, graph.Input{Name: InLayer, Node: l, Output: OutLayer})
		}
	default:
		n.Inputs = trees(InLayer, pm.Layers)
	}
	return p.Add(n)
}
