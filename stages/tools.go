// This file identifies the programs of the host that shape outputs. Their
// identities are parameters of the stages that run them.

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

// emulator begins the name of a tool that runs programs of another architecture. It is
// qemu-user, however the host names the program.
const emulator = "qemu-user-"

// ToolIdentities returns the [Options.Tools] of this host. It identifies each program
// that the machines' stages run, those of boot checks if boot is set. An identity is the
// digest of the program and of its libraries. It is "missing" if the host does not have
// the program; the stage then fails when it runs.
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
		if boot || m.BootCheck || HooksInVM(m) {
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

// isImage reports whether the base of a machine is a disk image.
func isImage(vm *constellations.Machine) bool {
	return vm.Base != "" && !constellations.OfRegistry(vm.Base) && !strings.HasPrefix(vm.Base, OCIPrefix)
}

// ToolIdentity returns the identity of one program of the host.
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
