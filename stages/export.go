package stages

import (
	"meros/graph"
)

const exportRevision = 1

// ExportFormats are the forms in which a machine can be given to others, with
// the end of a file's name.
var ExportFormats = map[string]string{
	"qcow2": ".qcow2", "raw": ".raw", "tar": ".tar", "oci": ".oci.tar", "squashfs": ".squashfs", "erofs": ".erofs",
}

// exportTools make the formats that meros does not write itself.
var exportTools = map[string]string{"squashfs": "mksquashfs", "erofs": "mkfs.erofs", "raw": "qemu-img", "qcow2": "qemu-img"}

// ExportTool is the program that makes a format, or "".
func ExportTool(format string) string { return exportTools[format] }

// Export adds the node that puts a machine into a file: its disk, or the files
// of its root file system. compress is "zstd" or "".
func Export(p *graph.Plan, pm *Machine, o Options, format, compress, file string) *graph.Node {
	n := &graph.Node{
		Stage: "export", Revision: exportRevision, Name: pm.Constellation + "/" + pm.Name + " as " + format,
		Params:  []graph.Param{{Name: "format", Value: format}, {Name: "compress", Value: compress}, {Name: "epoch", Value: pm.Image.Param("epoch")}},
		Outputs: []string{"file"}, Deliver: file,
	}
	if t := ExportTool(format); t != "" {
		n.Params = append(n.Params, graph.Param{Name: "tool-" + t, Value: o.Tools[t]})
	}
	switch format {
	case "qcow2", "raw":
		n.Inputs = []graph.Input{{Name: "image", Node: pm.Image, Output: "image"}, {Name: "base", Node: pm.Base, Output: "image"}}
	case "oci":
		n.Params = append(n.Params, graph.Param{Name: "arch", Value: pm.Arch})
		for _, l := range pm.Layers {
			n.Inputs = append(n.Inputs, graph.Input{Name: "layer", Node: l, Output: "layer"})
		}
	default:
		n.Inputs = trees("layer", pm.Layers)
	}
	return p.Add(n)
}
