// This file plans the layers of a container image, from a file or from a registry,
// as the base of a machine.

package stages

import (
	"fmt"
	"path/filepath"

	"meros/constellations"
	"meros/graph"
	"meros/runner/arch"
	"meros/runner/hint"
)

// Names of the plan and the step, see names.go.
const (
	ParamDiffID = "diff-id" // SHA-256 of the uncompressed layer
	ParamEntry  = "entry"   // name of the layer in its archive, or ""
)

const ociRevision = 3

// OCIPrefix begins a base that is a container image: oci:PATH[:TAG].
const OCIPrefix = "oci:"

// OCILayer is a layer of a container image.
type OCILayer struct {
	File   string // the layer, or the archive that has it
	Entry  string // name in the archive, or ""
	DiffID string // SHA-256 of what it is uncompressed, in hexadecimal
}

// oci returns the layers of a container image. Each is a node, so that images share
// the layers that they have in common.
func (pl *planner) oci(vm *constellations.Machine, section *constellations.SectionLock, reference string) ([]*graph.Node, error) {
	file, tag, err := FindOCI(pl.Root, pl.m, reference)
	if err != nil {
		return nil, err
	}
	pl.named = append(pl.named, file)
	layers, err := pl.OCI(file, tag, arch.Go(vm.Arch))
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", file, err)
	}
	var nodes []*graph.Node
	for i, l := range layers {
		local, err := pl.file(InLayer, l.File)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, pl.plan.Add(&graph.Node{
			Stage: "oci", Revision: ociRevision, Name: fmt.Sprintf("%s layer %d", filepath.Base(file), i+1),
			Params: []graph.Param{epoch(section), {Name: ParamDiffID, Value: l.DiffID}, {Name: ParamEntry, Value: l.Entry}},
			Inputs: trees(InLower, nodes), Locals: []graph.Local{*local},
			Outputs: []string{OutLayer, OutAccounts},
		}))
	}
	return nodes, nil
}

// registry returns the layers of an image of a registry, as the lock pins them.
func (pl *planner) registry(vm *constellations.Machine, section *constellations.SectionLock, reference string) ([]*graph.Node, error) {
	locked := pl.lock.Source(constellations.SourceRegistry, vm.Base, arch.Go(vm.Arch))
	if locked == nil {
		return nil, pl.unlocked(vm.Base + " for " + vm.Arch)
	}
	var nodes []*graph.Node
	for i, l := range locked.Layers {
		name := fmt.Sprintf("%s layer %d", reference, i+1)
		nodes = append(nodes, pl.plan.Add(&graph.Node{
			Stage: "oci", Revision: ociRevision, Name: name,
			Params:  []graph.Param{epoch(section), {Name: ParamDiffID, Value: l.DiffID}, {Name: ParamEntry}},
			Inputs:  append([]graph.Input{{Name: InLayer, Node: pl.fetchURLs(name, []string{vm.Base}, l.SHA256, l.Size), Output: OutFile}}, trees(InLower, nodes)...),
			Outputs: []string{OutLayer, OutAccounts},
		}))
	}
	return nodes, nil
}

// FindOCI is [Find] for the part of a base after [OCIPrefix], PATH[:TAG]. Both may
// have colons.
func FindOCI(root string, m *constellations.Manifest, reference string) (file, tag string, err error) {
	file, err = Find(root, m, "image", reference)
	if err == nil {
		return file, "", nil
	}
	for i, c := range reference {
		if c != ':' {
			continue
		}
		if f, err := Find(root, m, "image", reference[:i]); err == nil {
			return f, reference[i+1:], nil
		}
	}
	return "", "", hint.Add(err, "an image of a registry is `docker://NAME:TAG`")
}
