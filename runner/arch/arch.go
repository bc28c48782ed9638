// Package arch is the one table of architectures: the name that QEMU, Go,
// Debian, Alpine, the kernel and ELF give to each. It holds names only, and
// does not know what a machine or a build does with them.
//
// The key of the table is QEMU's name, as in qemu-system-NAME: manifests, locks
// and key texts use it. QEMU calls both byte orders of POWER ppc64. Here ppc64 is
// the little-endian one, which Debian calls ppc64el.
//
// The package imports nothing of meros, and every package may import it.
package arch

import (
	"debug/elf"
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// Arch holds the names of one architecture.
type Arch struct {
	Name     string   // QEMU's name, the key
	Aliases  []string // further names that a manifest may use
	Go       string   // GOARCH, which OCI uses as well
	Debian   string   // as dpkg-architecture(1) prints it
	Alpine   string   // as in /etc/apk/arch
	Emulator string   // as in qemu-EMULATOR-static

	// DebianKernel is the metapackage of Debian's kernel, the one for virtual
	// machines where there is one.
	DebianKernel string

	// Compat is the 32-bit architecture whose programs the processor runs as
	// well, or "".
	Compat string

	ELF    ELF
	Kernel Kernel
	Board  Board
}

// ELF holds the fields of a program's header that depend on the architecture,
// elf(5).
type ELF struct {
	Class   elf.Class
	Data    elf.Data // byte order
	Machine elf.Machine
}

// Kernel holds the names in the kernel's makefiles. It is empty for an
// architecture whose kernel meros cannot compile.
type Kernel struct {
	Arch   string // ARCH=
	Source string // SRCARCH, the directory below arch/
	Cross  string // CROSS_COMPILE= on an x86_64 host, "" where its own compiler serves
	Image  string // the make target
	File   string // the file that the target makes
	Clang  bool   // LLVM=1 compiles it
}

// Board holds QEMU's names for the virtual hardware.
type Board struct {
	Machine string // -machine, with options
	Console string // the kernel's name of the first serial line
	Bus     string // suffix of virtio devices: "pci" or "ccw"
	CPU     string // -cpu for emulation: "max", or another where QEMU has no "max", or has it since version 8.2 only

	// PowerButton reports whether QEMU's system_powerdown presses a power
	// button of ACPI.
	PowerButton bool
}

// table is sorted as error messages list it.
var table = []Arch{
	{
		Name: "x86_64", Go: "amd64", Debian: "amd64", Alpine: "x86_64", Emulator: "x86_64",
		DebianKernel: "linux-image-cloud-amd64", Compat: "i386",
		ELF:    ELF{elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_X86_64},
		Kernel: Kernel{Arch: "x86_64", Source: "x86", Image: "bzImage", File: "arch/x86/boot/bzImage", Clang: true},
		Board:  Board{Machine: "q35", Console: "ttyS0", Bus: "pci", CPU: "max", PowerButton: true},
	},
	{
		Name: "aarch64", Go: "arm64", Debian: "arm64", Alpine: "aarch64", Emulator: "aarch64",
		DebianKernel: "linux-image-cloud-arm64", Compat: "arm",
		ELF:    ELF{elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_AARCH64},
		Kernel: Kernel{Arch: "arm64", Source: "arm64", Cross: "aarch64-linux-gnu-", Image: "Image", File: "arch/arm64/boot/Image", Clang: true},
		Board:  Board{Machine: "virt", Console: "ttyAMA0", Bus: "pci", CPU: "max"},
	},
	{
		Name: "riscv64", Go: "riscv64", Debian: "riscv64", Alpine: "riscv64", Emulator: "riscv64",
		DebianKernel: "linux-image-riscv64",
		ELF:          ELF{elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_RISCV},
		Kernel:       Kernel{Arch: "riscv", Source: "riscv", Cross: "riscv64-linux-gnu-", Image: "Image", File: "arch/riscv/boot/Image", Clang: true},
		Board:        Board{Machine: "virt", Console: "ttyS0", Bus: "pci", CPU: "rv64"},
	},
	{
		Name: "i386", Go: "386", Debian: "i386", Alpine: "x86", Emulator: "i386",
		DebianKernel: "linux-image-686",
		ELF:          ELF{elf.ELFCLASS32, elf.ELFDATA2LSB, elf.EM_386},
		Kernel:       Kernel{Arch: "i386", Source: "x86", Image: "bzImage", File: "arch/x86/boot/bzImage"},
		Board:        Board{Machine: "q35", Console: "ttyS0", Bus: "pci", CPU: "max", PowerButton: true},
	},
	{
		Name: "arm", Aliases: []string{"armhf"}, Go: "arm", Debian: "armhf", Alpine: "armv7", Emulator: "arm",
		DebianKernel: "linux-image-armmp",
		ELF:          ELF{elf.ELFCLASS32, elf.ELFDATA2LSB, elf.EM_ARM},
		Kernel:       Kernel{Arch: "arm", Source: "arm", Cross: "arm-linux-gnueabihf-", Image: "zImage", File: "arch/arm/boot/zImage", Clang: true},
		Board:        Board{Machine: "virt,highmem=off", Console: "ttyAMA0", Bus: "pci", CPU: "max"}, // a 32-bit processor cannot address high memory
	},
	{
		Name: "ppc64", Go: "ppc64le", Debian: "ppc64el", Alpine: "ppc64le", Emulator: "ppc64le",
		DebianKernel: "linux-image-powerpc64le",
		ELF:          ELF{elf.ELFCLASS64, elf.ELFDATA2LSB, elf.EM_PPC64},
		Board:        Board{Machine: "pseries", Console: "hvc0", Bus: "pci", CPU: "power9"},
	},
	{
		Name: "s390x", Go: "s390x", Debian: "s390x", Alpine: "s390x", Emulator: "s390x",
		DebianKernel: "linux-image-s390x",
		ELF:          ELF{elf.ELFCLASS64, elf.ELFDATA2MSB, elf.EM_S390},
		Board:        Board{Machine: "s390-ccw-virtio", Console: "ttysclp0", Bus: "ccw", CPU: "max"},
	},
}

// Find returns the architecture that QEMU calls name.
func Find(name string) (Arch, error) {
	if a, ok := by(func(a Arch) bool { return a.Name == name }); ok {
		return a, nil
	}
	names := make([]string, len(table))
	for i, a := range table {
		names[i] = a.Name
	}
	return Arch{}, fmt.Errorf("unknown architecture %q, want one of %s", name, strings.Join(names, ", "))
}

// FindDebian returns the architecture that Debian calls name, and whether there
// is one.
func FindDebian(name string) (Arch, bool) {
	return by(func(a Arch) bool { return a.Debian == name })
}

// FindELF returns the architecture of programs whose header names machine, and
// whether there is one. Class and byte order do not matter.
func FindELF(machine elf.Machine) (Arch, bool) {
	return by(func(a Arch) bool { return a.ELF.Machine == machine })
}

func by(is func(Arch) bool) (Arch, bool) {
	if i := slices.IndexFunc(table, is); i >= 0 {
		return table[i], true
	}
	return Arch{}, false
}

// Words returns the names that a manifest may use, aliases behind the name that
// they stand for.
func Words() []string {
	var words []string
	for _, a := range table {
		words = append(append(words, a.Name), a.Aliases...)
	}
	return words
}

// Name returns QEMU's name for a word of [Words].
func Name(word string) string {
	if a, ok := by(func(a Arch) bool { return slices.Contains(a.Aliases, word) }); ok {
		return a.Name
	}
	return word
}

// Go returns Go's name for what QEMU calls name. It returns an unknown name as
// it is.
func Go(name string) string {
	if a, err := Find(name); err == nil {
		return a.Go
	}
	return name
}

// FromGo returns QEMU's name for what Go calls name. It returns an unknown name
// as it is.
func FromGo(name string) string {
	if a, ok := by(func(a Arch) bool { return a.Go == name }); ok {
		return a.Name
	}
	return name
}

// Host returns QEMU's name for the architecture of this program.
func Host() string { return FromGo(runtime.GOARCH) }
