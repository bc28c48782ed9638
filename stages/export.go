// This file plans the export of a machine to one file of another format.

package stages

import (
	"errors"

	"meros/graph"
	"meros/runner/hint"
)

// Names of the plan and the step, see names.go.
const (
	ParamCompress = "compress" // "zstd" or ""
)

const exportRevision = 1

// exportFormats lists the formats that a machine can be exported in, with the
// ending of the file's name.
var exportFormats = map[string]string{
	"qcow2": ".qcow2", "raw": ".raw", "tar": ".tar", "oci": ".oci.tar", "squashfs": ".squashfs", "erofs": ".erofs",
}

// ExportEnding returns the ending of the file name for a format.
func ExportEnding(format, compress string) string {
	ending := exportFormats[format]
	if compress != "" && (format == "raw" || format == "tar") {
		ending += ".zst"
	}
	return ending
}

// OfTree reports whether the format holds the files of the root file system, and not
// the disk.
func OfTree(format string) bool { return format != "qcow2" && format != "raw" }

// ErrOnlyDisk says that a machine cannot be exported as files.
var ErrOnlyDisk = hint.Add(errors.New("its hooks run in the machine itself, which leaves only an image of its disk"), "choose the format qcow2 or raw")

// exportTools lists the programs that write the formats which meros does not write
// itself.
var exportTools = map[string]string{"squashfs": "mksquashfs", "erofs": "mkfs.erofs", "raw": "qemu-img", "qcow2": "qemu-img"}

// ExportTool returns the program that writes a format, or "" if meros does.
func ExportTool(format string) string { return exportTools[format] }

// Export adds the node that writes a machine to a file: its disk, or the files of
// its root file system. compress is "zstd" or "".
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
