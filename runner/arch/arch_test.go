// This file tests that the table is complete and that no name in it changes
// unnoticed: names are part of plans, locks and keys.

package arch

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// names lists every name of every architecture, in this order: Go, Debian, Alpine,
// qemu-user, Debian's kernel, the 32-bit architecture. Then follow the header of
// programs, the board, the power button, and the kernel's makefiles.
var names = map[string]string{
	"x86_64":  "amd64 amd64 x86_64 x86_64 linux-image-cloud-amd64 i386 {2 1 62} {q35 ttyS0 pci max true} {x86_64 x86  bzImage arch/x86/boot/bzImage true}",
	"i386":    "386 i386 x86 i386 linux-image-686  {1 1 3} {q35 ttyS0 pci max true} {i386 x86  bzImage arch/x86/boot/bzImage false}",
	"aarch64": "arm64 arm64 aarch64 aarch64 linux-image-cloud-arm64 arm {2 1 183} {virt ttyAMA0 pci max false} {arm64 arm64 aarch64-linux-gnu- Image arch/arm64/boot/Image true}",
	"arm":     "arm armhf armv7 arm linux-image-armmp  {1 1 40} {virt,highmem=off ttyAMA0 pci max false} {arm arm arm-linux-gnueabihf- zImage arch/arm/boot/zImage true}",
	"riscv64": "riscv64 riscv64 riscv64 riscv64 linux-image-riscv64  {2 1 243} {virt ttyS0 pci rv64 false} {riscv riscv riscv64-linux-gnu- Image arch/riscv/boot/Image true}",
	"ppc64":   "ppc64le ppc64el ppc64le ppc64le linux-image-powerpc64le  {2 1 21} {pseries hvc0 pci power9 false} {     false}",
	"s390x":   "s390x s390x s390x s390x linux-image-s390x  {2 2 22} {s390-ccw-virtio ttysclp0 ccw max false} {     false}",
}

func TestNames(t *testing.T) {
	for name, want := range names {
		a, err := Find(name)
		if err != nil {
			t.Error(err)
			continue
		}
		e := a.ELF
		got := fmt.Sprintf("%s %s %s %s %s %s {%d %d %d} %v %v", a.Go, a.Debian, a.Alpine, a.Emulator, a.DebianKernel, a.Compat, e.Class, e.Data, e.Machine, a.Board, a.Kernel)
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if len(table) != len(names) {
		t.Errorf("the table has %d architectures, want %d", len(table), len(names))
	}
}

// Every word of a manifest leads to an architecture with all the names that
// building and booting its machines needs.
func TestWords(t *testing.T) {
	want := []string{"x86_64", "aarch64", "riscv64", "i386", "arm", "armhf", "ppc64", "s390x"}
	if got := Words(); !slices.Equal(got, want) {
		t.Errorf("manifests accept %q, want %q", got, want)
	}
	for _, word := range Words() {
		a, err := Find(Name(word))
		if err != nil {
			t.Errorf("%s: %v", word, err)
		}
		for what, name := range map[string]string{
			"Go": a.Go, "Debian": a.Debian, "Alpine": a.Alpine, "qemu-user": a.Emulator, "Debian's kernel": a.DebianKernel,
			"machine": a.Board.Machine, "console": a.Board.Console, "bus": a.Board.Bus, "processor": a.Board.CPU,
		} {
			if name == "" {
				t.Errorf("%s has no name for %s", word, what)
			}
		}
		if a.ELF.Class == 0 || a.ELF.Data == 0 || a.ELF.Machine == 0 {
			t.Errorf("%s has no header of programs", word)
		}
		if a.Compat != "" {
			if compat, err := Find(a.Compat); err != nil || compat.Compat != "" {
				t.Errorf("%s runs %s: %v", word, a.Compat, err)
			}
		}
	}
	if got := Name("armhf"); got != "arm" {
		t.Errorf("armhf is %s", got)
	}
}

// Every lookup finds every row, and says so if there is none.
func TestFind(t *testing.T) {
	for _, a := range table {
		if got, err := Find(a.Name); err != nil || got.Name != a.Name {
			t.Errorf("Find(%s): %s, %v", a.Name, got.Name, err)
		}
		if got, ok := FindDebian(a.Debian); !ok || got.Name != a.Name {
			t.Errorf("FindDebian(%s): %s, %t", a.Debian, got.Name, ok)
		}
		if got, ok := FindELF(a.ELF.Machine); !ok || got.Name != a.Name {
			t.Errorf("FindELF(%d): %s, %t", a.ELF.Machine, got.Name, ok)
		}
		if got := FromGo(a.Go); got != a.Name {
			t.Errorf("FromGo(%s): %s", a.Go, got)
		}
		if got := Go(a.Name); got != a.Go {
			t.Errorf("Go(%s): %s", a.Name, got)
		}
	}
	for _, name := range []string{"", "vax", "amd64", "armhf", "ppc64le"} {
		if _, err := Find(name); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("unknown architecture %q, want one of x86_64, aarch64", name)) {
			t.Errorf("Find(%q): %v", name, err)
		}
	}
	if _, ok := FindDebian("x86_64"); ok {
		t.Error("Debian calls nothing x86_64")
	}
	if _, ok := FindELF(0); ok {
		t.Error("a program without an architecture has one")
	}
	if got := FromGo("loong64"); got != "loong64" {
		t.Errorf("FromGo(loong64): %s", got)
	}
	if got := Go("vax"); got != "vax" {
		t.Errorf("Go(vax): %s", got)
	}
	if got := Host(); got != FromGo(runtime.GOARCH) {
		t.Errorf("this host is %s", got)
	}
}
