// This file tests kernels of a manifest and configuration fragments.

package constellations

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestKernels(t *testing.T) {
	m, err := Parse("x", "manifest.yml", []byte(`
kernel: {source: "debian:linux-source-6.1", config: a.config}
virtual_machines:
  same: {}
  distro: {kernel: distro}
  image: {kernel: data/disks/bzImage}
  upstream: {kernel: {}}
  tag: {kernel: {source: "https://git.example/linux.git", ref: v6.12, base: defconfig, patches: [a.patch, b.patch], toolchain: clang, debug: true}}
  tarball: {kernel: {source: "https://mirror.example/linux-6.1.tar.xz", sha256: `+strings.Repeat("0a", 32)+`, key: kernel.gpg}}
  dir: {kernel: {source: ../linux, config: [a.config, b.config]}}
`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]Kernel{
		"same":     {Kind: KernelDebian, Location: "linux-source-6.1", Base: "tiny", Toolchain: "gcc", Fragments: []string{"a.config"}},
		"distro":   {Kind: KernelDistro},
		"image":    {Kind: KernelImage, Location: "data/disks/bzImage"},
		"upstream": {Kind: KernelGit, Location: UpstreamKernel, Ref: "master", Base: "tiny", Toolchain: "gcc"},
		"tag": {Kind: KernelGit, Location: "https://git.example/linux.git", Ref: "v6.12", Base: "defconfig", Toolchain: "clang", Debug: true,
			Patches: []string{"a.patch", "b.patch"}},
		"tarball": {Kind: KernelTarball, Location: "https://mirror.example/linux-6.1.tar.xz", SHA256: strings.Repeat("0a", 32), Key: "kernel.gpg", Base: "tiny", Toolchain: "gcc"},
		"dir":     {Kind: KernelDir, Location: "../linux", Base: "tiny", Toolchain: "gcc", Fragments: []string{"a.config", "b.config"}},
	} {
		vm, err := m.Machine(name)
		if err != nil {
			t.Fatal(err)
		}
		got := vm.Kernel
		got.Line = 0
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

func TestParseKernelSource(t *testing.T) {
	for s, want := range map[string]string{
		"git": "git " + UpstreamKernel, "https://x.example/linux.git": "git https://x.example/linux.git", "git+https://x.example/linux": "git https://x.example/linux",
		"git://x.example/linux": "git git://x.example/linux", "git+/srv/linux": "git /srv/linux", "file:///srv/linux.git": "git file:///srv/linux.git",
		"https://x.example/linux-6.1.tar.gz": "tarball https://x.example/linux-6.1.tar.gz", "file:///srv/linux.tar.zst": "tarball file:///srv/linux.tar.zst",
		"debian:linux-source-6.1": "debian linux-source-6.1", "../linux": "dir ../linux", "/srv/linux": "dir /srv/linux",
	} {
		kind, location, problem := ParseKernelSource(s)
		if got := string(kind) + " " + location; got != want || problem != "" {
			t.Errorf("%s: %q, %q; want %q", s, got, problem, want)
		}
	}
	for _, s := range []string{"", "a b", "https://x.example/linux", "debian:X", "git+--upload-pack=x"} {
		if _, _, problem := ParseKernelSource(s); problem == "" {
			t.Errorf("%q was accepted", s)
		}
	}
}

func TestParseFragment(t *testing.T) {
	src := "# a comment\n\nCONFIG_A=y\n  CONFIG_B=m\r\n# CONFIG_C is not set\nCONFIG_D=\"a \\\"b\\\" c\"\nCONFIG_E=0x10\nCONFIG_F=-5\nCONFIG_A=y\nCONFIG_G=n\n"
	options, err := ParseFragment("f.config", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range options {
		got = append(got, o.String()+" "+o.Place())
	}
	want := `CONFIG_A=y f.config:3|CONFIG_B=m f.config:4|# CONFIG_C is not set f.config:5|CONFIG_D="a \"b\" c" f.config:6|CONFIG_E=0x10 f.config:7|CONFIG_F=-5 f.config:8|CONFIG_A=y f.config:9|# CONFIG_G is not set f.config:10`
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("%s\nwant %s", s, want)
	}
	_, err = ParseFragment("f.config", []byte("CONFIG_A=y\nVIRTIO=y\nCONFIG_B=yes\nCONFIG_A=n\nCONFIG_C=\"x\n"))
	for _, w := range []string{
		"f.config:2:1: not a kernel option\n    2 | VIRTIO=y\n      | ^\nhint: write CONFIG_NAME=y", `f.config:3:10: "yes" is not a value for CONFIG_B`,
		"f.config:4:1: CONFIG_A is n here, but y in line 1", `f.config:5:10: "\"x" is not a value`,
	} {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("no %q in\n%v", w, err)
		}
	}
}

// TestMergeFragments checks that an error names both of two contradicting options.
func TestMergeFragments(t *testing.T) {
	parse := func(file, src string) []Option {
		t.Helper()
		o, err := ParseFragment(file, []byte(src))
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	a, b, c := parse("a", "CONFIG_X=y\nCONFIG_Y=y\n"), parse("b", "\nCONFIG_X=y\nCONFIG_Z=y"), parse("c", "CONFIG_Y=m\n")
	if m, err := MergeFragments(a, b); err != nil || len(m) != 3 {
		t.Errorf("%v, %v", m, err)
	}
	_, err := MergeFragments(a, b, c)
	var errs *Errors
	if !errors.As(err, &errs) || !strings.Contains(err.Error(), "c:1:1: CONFIG_Y is m here, but y in a:2") {
		t.Errorf("%v", err)
	}
}

func FuzzParseFragment(f *testing.F) {
	f.Add("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\n")
	f.Fuzz(func(t *testing.T, src string) {
		options, err := ParseFragment("f", []byte(src))
		if err != nil {
			return
		}
		var text strings.Builder
		for _, o := range options {
			text.WriteString(o.String() + "\n")
		}
		again, err := ParseFragment("f", []byte(text.String()))
		if err != nil || len(again) != len(options) {
			t.Errorf("%q became %q: %v", src, text.String(), err)
		}
	})
}
