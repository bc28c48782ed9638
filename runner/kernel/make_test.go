// This file tests how the output of make is read, and the variables for make.

package kernel

import (
	"strings"
	"testing"

	"meros/runner/hint"
)

// Failure reports the first error, not make's last line.
func TestWatch(t *testing.T) {
	for name, test := range map[string]struct {
		text     []string
		objects  int
		warnings int
		failure  string
	}{
		"good": {[]string{
			"make[1]: Entering directory '/obj'", "  HOSTCC  scripts/x", "  CC      init/main.o", "/src/init/main.c:7:3: warning: unused variable 'x' [-Wunused]",
			"  AR      built-in.a", "Kernel: arch/x86/boot/bzImage is ready  (#1)",
		}, 3, 1, ""},
		"error": {[]string{
			"  CC      drivers/a.o", "/src/drivers/a.c: In function 'f':", "/src/drivers/a.c:12:5: error: 'y' undeclared (first use in this function)",
			"/src/drivers/a.c:13:5: error: expected ';'", "make[3]: *** [/src/scripts/Makefile.build:250: drivers/a.o] Error 1", "make: *** [Makefile:227: __sub-make] Error 2",
		}, 1, 0, "drivers/a.c:12: 'y' undeclared (first use in this function)"},
		"missing header": {[]string{"/src/a.c:3:10: fatal error: openssl/x.h: No such file or directory"}, 0, 0, "a.c:3: openssl/x.h: No such file or directory"},
		"linker":         {[]string{"ld: init/main.o: in function `start':", "ld: main.c:(.text+0x1): undefined reference to `foo'", "make[1]: *** [vmlinux] Error 1"}, 0, 0, "main.c:(.text+0x1): undefined reference to `foo'"},
		"no rule":        {[]string{"make[2]: *** No rule to make target 'foo.o'.  Stop."}, 0, 0, "No rule to make target 'foo.o'.  Stop."},
		"out of memory":  {[]string{"  CC      a.o", "gcc: fatal error: Killed signal terminated program cc1", "make[2]: *** [a.o] Error 1"}, 1, 0, "the compiler was killed: the host ran out of memory: [a.o] Error 1\nhint: a smaller `--jobs` needs less memory"},
		"disk full":      {[]string{"/src/a.c:9:1: fatal error: error writing to a.s: No space left on device"}, 0, 0, "the disk is full: a.c:9: error writing to a.s: No space left on device"},
	} {
		t.Run(name, func(t *testing.T) {
			reported := 0
			w := &Watch{Report: func(n int) { reported = n }}
			text := strings.Join(test.text, "\n") + "\n"
			for i := 0; i < len(text); i += 7 { // in pieces, as from a pipe
				w.Write([]byte(text[i:min(i+7, len(text))]))
			}
			failure := ""
			if err := w.Failure(); err != nil {
				failure = err.Error()
				if h := hint.Of(err); h != "" {
					failure += "\nhint: " + h
				}
			}
			if w.Objects() != test.objects || reported != test.objects || w.warnings != test.warnings || failure != test.failure {
				t.Errorf("%d objects, %d reported, %d warnings, %q; want %q", w.Objects(), reported, w.warnings, failure, test.failure)
			}
		})
	}
}

func TestVariables(t *testing.T) {
	for _, test := range []struct{ arch, toolchain, wrapper, want string }{
		{"x86_64", "gcc", "", "ARCH=x86_64 CC=gcc HOSTCC=gcc"},
		{"x86_64", "gcc", "ccache", "ARCH=x86_64 CC=ccache gcc HOSTCC=ccache gcc"},
		{"aarch64", "gcc", "ccache", "ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- CC=ccache aarch64-linux-gnu-gcc HOSTCC=ccache gcc"},
		{"riscv64", "clang", "ccache", "ARCH=riscv LLVM=1 CC=ccache clang HOSTCC=ccache clang"},
	} {
		target, err := TargetFor(test.arch)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(target.Variables(test.toolchain, test.wrapper), " "); got != test.want {
			t.Errorf("%s: %q, want %q", test.arch, got, test.want)
		}
	}
	for name, want := range map[string]string{"s390x": "cannot compile a kernel for s390x", "vax": `unknown architecture "vax"`} {
		if _, err := TargetFor(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
