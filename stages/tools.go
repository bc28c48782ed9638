package stages

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strings"

	"meros/constellations"
	"meros/graph"
	"meros/runner"
	"meros/runner/arch"
)

// emulator begins the name of a tool that runs programs of another
// architecture: qemu-user, whatever the host's name of its program is.
const emulator = "qemu-user-"

// ToolIdentities are the [Options.Tools] of this host: for each program that
// the machines' stages run, boot checks included if boot is set, the digest of the program and of the libraries it
// names, or "missing", of which the stage that needs it complains when it
// runs.
func ToolIdentities(machines []*constellations.Machine, boot bool, stats *graph.StatCache) map[string]string {
	names := map[string]bool{"mke2fs": true, "debugfs": true}
	for _, m := range machines {
		for _, d := range m.Disks {
			if d.Base != "" {
				names["qemu-img"] = true
			} else {
				names[formatters[d.FSType]] = true
			}
		}
		if isImage(m) {
			for _, n := range useTools {
				names[n] = true
			}
		}
		if t := ExportTool(m.Format); t != "" {
			names[t] = true
		}
		if m.Bootstrap == "debootstrap" {
			names["debootstrap"] = true
		}
		if boot || m.BootCheck || InMachine(m) {
			names["qemu-system-"+m.Arch] = true
		}
	}
	ids := make(map[string]string)
	for _, m := range machines {
		if m.Arch == arch.Host() {
			continue
		}
		ids[emulator+m.Arch] = "missing"
		if file, err := runner.Emulator(m.Arch); err == nil {
			if l, err := graph.ReadLocal("tool", file, nil, stats); err == nil {
				ids[emulator+m.Arch] = strings.TrimPrefix(l.Digest, "sha256:")
			}
		}
	}
	for n := range names {
		ids[n] = ToolIdentity(n, stats)
	}
	return ids
}

// isImage tells whether a machine is made of an image of a disk.
func isImage(vm *constellations.Machine) bool {
	return vm.Base != "" && !constellations.OfRegistry(vm.Base) && !strings.HasPrefix(vm.Base, OCIPrefix)
}

// ToolIdentity is the identity of one host program.
func ToolIdentity(name string, stats *graph.StatCache) string {
	files, err := runner.ProgramFiles(name)
	if err != nil {
		return "missing"
	}
	if name == "debootstrap" {
		files = append(files, "/usr/share/debootstrap") // the program itself is a dozen lines
	}
	h := sha256.New()
	for _, f := range files {
		l, err := graph.ReadLocal("tool", f, nil, stats)
		if err != nil {
			return "missing"
		}
		io.WriteString(h, l.Digest)
	}
	return hex.EncodeToString(h.Sum(nil))
}
