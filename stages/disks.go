package stages

import (
	"crypto/sha256"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"meros/constellations"
	"meros/graph"
)

// Names of the plan and the step, see names.go.
const (
	ParamFileSystem = "fs"   // kind of the file system
	ParamUUID       = "uuid" // of the file system
)

const (
	formatRevision  = 2
	convertRevision = 2
)

// Disk is a further disk of a machine, as it is before anything is written to
// it.
type Disk struct {
	constellations.Disk
	Image *graph.Node // with the output "image"
}

// formatters are the programs that make file systems.
var formatters = map[string]string{
	"ext2": "mke2fs", "ext3": "mke2fs", "ext4": "mke2fs", "btrfs": "mkfs.btrfs", "xfs": "mkfs.xfs", "vfat": "mkfs.vfat", "swap": "mkswap",
}

// fileSystemModules are what a kernel of a distribution needs for a file
// system besides [kernelModules].
var fileSystemModules = map[string][]string{
	"btrfs": {"btrfs"}, "xfs": {"xfs"}, "vfat": {"vfat", "nls_cp437", "nls_iso8859-1", "nls_ascii"},
}

// disks are the machine's further disks: those of one size, file system and
// label are the same for all machines.
func (pl *planner) disks(vm *constellations.Machine) ([]Disk, error) {
	var all []Disk
	for _, d := range vm.Disks {
		n := &graph.Node{
			Stage: "format", Revision: formatRevision, Name: fmt.Sprintf("empty disk %s (%s, %d MiB)", d.Label, d.FSType, d.Size>>20),
			Params: append([]graph.Param{
				{Name: ParamFileSystem, Value: d.FSType}, {Name: ParamSize, Value: strconv.FormatInt(d.Size, 10)}, {Name: ParamLabel, Value: d.Label},
				{Name: ParamUUID, Value: fileSystemID(d)},
			}, pl.tools(formatters[d.FSType])...),
			Outputs: []string{OutImage},
			Impure:  d.FSType == "btrfs", // mkfs.btrfs draws ids that it takes no argument for
		}
		if d.Base != "" {
			n = &graph.Node{
				Stage: "convert", Revision: convertRevision, Name: fmt.Sprintf("disk %s of %s", d.Label, path.Base(d.Base)),
				Params:  append([]graph.Param{{Name: ParamSize, Value: strconv.FormatInt(d.Size, 10)}}, pl.tools("qemu-img")...),
				Outputs: []string{OutImage},
			}
			if err := pl.imageOf(n, "the base of disk "+d.Label, d.Base, ""); err != nil {
				return nil, err
			}
		}
		all = append(all, Disk{d, pl.plan.Add(n)})
	}
	return all, nil
}

// diskSource is how fstab(5) calls the file system of a machine's nth further
// disk. What is in an image is known when it is built only, but its place is: a
// machine has its disks in their order, the first being its own.
func diskSource(n int, d constellations.Disk) string {
	switch {
	case d.Base == "":
		return "UUID=" + fileSystemID(d)
	case d.Partition > 0:
		return fmt.Sprintf("/dev/vd%c%d", 'b'+n, d.Partition)
	}
	return fmt.Sprintf("/dev/vd%c", 'b'+n)
}

// fileSystemID is what a disk's file system is known by in a machine: a UUID of
// version 8, RFC 9562, or of a FAT file system its serial number.
func fileSystemID(d constellations.Disk) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", d.Label, d.FSType, d.Size))
	if d.FSType == "vfat" {
		return fmt.Sprintf("%X-%X", h[:2], h[2:4])
	}
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// modules are the kernel modules that a machine needs.
func modules(vm *constellations.Machine) string {
	names := slices.Clone(kernelModules)
	var kinds []string
	for _, d := range vm.Disks {
		kinds = append(kinds, d.FSType)
	}
	if InMachine(vm) && isImage(vm) {
		kinds = append(kinds, "btrfs", "xfs") // its own file system may be one
	}
	for _, kind := range kinds {
		for _, m := range fileSystemModules[kind] {
			if !slices.Contains(names, m) {
				names = append(names, m)
			}
		}
	}
	return strings.Join(names, " ")
}
