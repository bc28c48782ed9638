package stages

import (
	"errors"
	"fmt"
	"path/filepath"

	"meros/constellations"
	"meros/graph"
)

const ociRevision = 1

// OCIPrefix begins a base that is an image of containers: oci:PATH[:TAG].
const OCIPrefix = "oci:"

// OCILayer is a layer of an image of containers.
type OCILayer struct {
	File   string // the layer, or the archive that has it
	Entry  string // name in the archive, or ""
	DiffID string // SHA-256 of what it is uncompressed, in hexadecimal
}

// oci is an image of containers as the layers that a machine begins with. Each
// is a node, so that images share what they have in common.
func (pl *planner) oci(vm *constellations.Machine, section *constellations.SectionLock, reference string) ([]*graph.Node, error) {
	if len(vm.Packages) > 0 {
		return nil, errors.New("packages are not installed into an image that is there already (a hook with \"hooks: {network: true}\" can do that)")
	}
	file, tag, err := pl.findOCI(reference)
	if err != nil {
		return nil, err
	}
	layers, err := pl.OCI(file, tag, GoArch(vm.Arch))
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", file, err)
	}
	var nodes []*graph.Node
	for i, l := range layers {
		local, err := pl.file("layer", l.File)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, pl.plan.Add(&graph.Node{
			Stage: "oci", Revision: ociRevision, Name: fmt.Sprintf("%s layer %d", filepath.Base(file), i+1),
			Params: []graph.Param{epoch(section), {Name: "diff-id", Value: l.DiffID}, {Name: "entry", Value: l.Entry}},
			Inputs: trees("lower", nodes), Locals: []graph.Local{*local},
			Outputs: []string{"layer", "accounts"},
		}))
	}
	return nodes, nil
}

// findOCI finds the image of a reference; path and tag may have colons.
func (pl *planner) findOCI(reference string) (file, tag string, err error) {
	file, err = pl.find("image", reference)
	if err == nil {
		return file, "", nil
	}
	for i, c := range reference {
		if c != ':' {
			continue
		}
		if f, err := pl.find("image", reference[:i]); err == nil {
			return f, reference[i+1:], nil
		}
	}
	return "", "", fmt.Errorf("%w (images of a registry are not fetched: skopeo copy docker://NAME oci:DIRECTORY:TAG, or docker save, puts one here)", err)
}
