// This file tests which packages a kernel is compiled with.

package stages

import (
	"strings"
	"testing"

	"meros/runner/arch"
)

func TestCompilers(t *testing.T) {
	want := map[string]map[string]string{
		"gcc": {
			"x86_64": "gcc", "i386": "gcc", "aarch64": "gcc gcc-aarch64-linux-gnu", "riscv64": "gcc gcc-riscv64-linux-gnu", "arm": "gcc gcc-arm-linux-gnueabihf",
		},
		"clang": {"x86_64": "clang lld llvm", "aarch64": "clang lld llvm", "riscv64": "clang lld llvm", "arm": "clang lld llvm"},
		"tcc":   {},
	}
	for toolchain, byArch := range want {
		for _, name := range append(arch.Words(), "vax") {
			if got := strings.Join(compilers(toolchain, name), " "); got != byArch[name] {
				t.Errorf("%s for %s: %q, want %q", toolchain, name, got, byArch[name])
			}
		}
	}
}
