package stages

import (
	"fmt"
	"strings"

	"meros/constellations"
)

// Section names the part of a lock that a machine's packages are pinned in.
type Section struct{ Suite, Arch, Mirror string }

// Need is something a machine is made of that a lock does not pin.
type Need struct {
	Section
	Machine  string
	Packages []string // beyond the base system; empty: the base system itself
}

func (n Need) String() string {
	if len(n.Packages) == 0 {
		return fmt.Sprintf("the base system of %s %s, for %s", n.Suite, n.Arch, n.Machine)
	}
	return fmt.Sprintf("the packages of %s (%s)", n.Machine, strings.Join(n.Packages, " "))
}

// Unlocked lists what the machines need and the lock does not pin.
func Unlocked(machines []*constellations.Machine, lock *constellations.Lock) []Need {
	var needs []Need
	for _, vm := range machines {
		if vm.Distribution != "debian" {
			continue
		}
		s := Section{vm.Suite, vm.Arch, vm.Mirror}
		have := lock.Section(vm.Suite, vm.Arch, vm.Mirror)
		if have == nil {
			needs = append(needs, Need{Section: s, Machine: vm.Name})
		}
		if len(vm.Packages) > 0 && (have == nil || have.Set(vm.Packages) == nil) {
			needs = append(needs, Need{Section: s, Machine: vm.Name, Packages: vm.Packages})
		}
	}
	return needs
}
