// This file boots a machine to check that it accepts a login.

package step

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"meros/constellations"
	"meros/runner/image"
	"meros/runner/vm"
	"meros/stages"
)

// boot boots the machine once, on a disk that is then discarded.
func (s *step) boot(ctx context.Context) error {
	memory, err := strconv.ParseInt(s.Params[stages.ParamMemory], 10, 64)
	if err != nil {
		return err
	}
	cpus, err := strconv.Atoi(s.Params[stages.ParamCPUs])
	if err != nil {
		return err
	}
	images, err := image.Chain(s.paths(stages.InImage)[0], s.paths(stages.InBase)[0])
	if err != nil {
		return err
	}
	m := &vm.Machine{
		Name: s.Params[stages.ParamHostname], Arch: s.Params[stages.ParamArch], Memory: memory, CPUs: cpus, KVM: constellations.KVM(s.Hints[stages.HintKVM]), User: s.Params[stages.ParamUser],
		Initrd: s.paths(stages.InInitrd)[0], Images: images, MAC: stages.ManagementMAC("", s.Params[stages.ParamHostname]),
	}
	for _, in := range s.Inputs {
		if label, ok := strings.CutPrefix(in.Name, stages.InDisk); ok {
			m.Disks = append(m.Disks, vm.Disk{Label: label, Image: in.Path})
		}
	}
	layout, err := s.layout()
	if err != nil {
		return err
	}
	if layout != nil {
		m.Root = layout.Arguments()
	}
	if args := s.Params[stages.ParamQEMUArgs]; args != "" {
		m.Extra = strings.Split(args, "\x00")
	}
	m.Kernel = s.given(stages.InKernel)
	g := &vm.Group{Name: "check", State: filepath.Join(s.Work, "state"), Keys: filepath.Join(s.Work, "keys"), SSH: filepath.Join(s.Work, "keys", "ssh")}
	v, err := vm.CheckBoot(ctx, g, m, stages.BootTimeout)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.log, "ready after %.1f s: %s, %s (%s)\n", v.Seconds, v.OSRelease["PRETTY_NAME"], v.Kernel, v.Accel)
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.Out, stages.OutVerdict), append(b, '\n'), 0o644); err != nil {
		return err
	}
	return copyFile(g.Console(m.Name), filepath.Join(s.Out, stages.OutConsole))
}
