// These tests compare plans with golden ones, and changes of a manifest with the
// nodes that they change.

package stages

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/txtar"

	"meros/constellations"
	"meros/graph"
	"meros/runner/hint"
)

var update = flag.Bool("update", false, "write the golden plans")

// project unpacks an archive of testdata into a new root directory.
func project(t *testing.T, archive string) string {
	t.Helper()
	a, err := txtar.ParseFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := txtar.Write(a, root); err != nil {
		t.Fatal(err)
	}
	// These static programs are headers without content, elf(5).
	for name, is := range map[string]struct{ class, machine byte }{
		"meros": {2, 62}, "meros-aarch64": {2, 183}, "meros-riscv64": {2, 243}, "meros-arm": {1, 40}, "meros-i386": {1, 3},
	} {
		header := append([]byte("\x7fELF"), make([]byte, 60)...)
		header[4], header[5], header[6], header[16], header[18], header[20] = is.class, 1, 1, 2, is.machine, 1
		header[map[byte]int{1: 40, 2: 52}[is.class]] = map[byte]byte{1: 52, 2: 64}[is.class]
		if err := os.WriteFile(filepath.Join(root, name), header, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// options returns the options of a plan on a fixed host.
func options(root string) Options {
	return Options{
		Root: root, Self: filepath.Join(root, "meros"), Host: "x86_64",
		Tools: map[string]string{"mke2fs": "M", "debugfs": "D", "debootstrap": "B", "qemu-system-x86_64": "Q"},
		URLs: func(_ *constellations.SectionLock, p constellations.Package) []string {
			return []string{"http://mirror.example/" + p.Filename}
		},
	}
}

// addTo plans all machines of a constellation.
func addTo(t *testing.T, p *graph.Plan, root, name string, o Options) []*Machine {
	t.Helper()
	ms, err := tryAddTo(p, root, name, o)
	if err != nil {
		t.Fatal(err)
	}
	return ms
}

func tryAddTo(p *graph.Plan, root, name string, o Options) ([]*Machine, error) {
	m, err := constellations.Find(root, name)
	if err != nil {
		return nil, err
	}
	lock, err := constellations.ReadLock(filepath.Join(m.Dir, "meros.lock"))
	if err != nil {
		return nil, err
	}
	var all []*constellations.Machine
	for i := range m.Machines {
		all = append(all, &m.Machines[i])
	}
	return Plan(p, m, all, lock, o)
}

// TestPlans compares the plan of each archive in testdata, as text. All of its
// constellations are in one plan, which has their common nodes once.
func TestPlans(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal(archives, err)
	}
	for _, archive := range archives {
		t.Run(filepath.Base(archive), func(t *testing.T) {
			root := project(t, archive)
			names, err := constellations.List(root)
			if err != nil {
				t.Fatal(err)
			}
			p := new(graph.Plan)
			for _, name := range names {
				addTo(t, p, root, name, options(root))
			}
			golden(t, strings.TrimSuffix(archive, ".txtar")+".golden", p.String())
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	have, wanted := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range min(len(have), len(wanted)) {
		if have[i] != wanted[i] {
			t.Fatalf("the plan differs from %s, which `go test ./stages -update` writes; line %d is\n%s\nnot\n%s", file, i+1, have[i], wanted[i])
		}
	}
	if len(have) != len(wanted) {
		t.Errorf("the plan has %d lines, and %s, which `go test ./stages -update` writes, has %d", len(have), file, len(wanted))
	}
}

// Each change of a manifest or of a file changes the nodes that depend on it, and no
// others.
func TestChangedNodes(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(root string) error
		changed string // stages of the machine whose nodes differ
	}{
		"nothing":       {func(string) error { return nil }, ""},
		"included file": {edit("a/includes.chroot/etc/motd", "else"), "overlay"},
		"hook":          {edit("a/hooks/0200-b.chroot", "#!/bin/true"), "hooks"},
		"renamed hook": {func(root string) error {
			dir := filepath.Join(root, "constellations/one/a/hooks")
			return os.Rename(filepath.Join(dir, "0200-b.chroot"), filepath.Join(dir, "0300-b.chroot"))
		}, "hooks"},
		"owners":       {edit("a/owners", "/etc/motd 1:1\n"), "overlay"},
		"other file":   {edit("a/README", "notes"), ""},
		"not a hook":   {edit("a/hooks/0200-b.sh", "#!/bin/true"), ""},
		"memory":       {replace("memory: 512M", "memory: 1G"), "boot"},
		"kvm":          {replace("memory: 512M", "memory: 512M, kvm: off"), "boot"},
		"user":         {replace("memory: 512M", "memory: 512M, user: me"), "boot personalize"},
		"address":      {replace("10.1.0.5", "10.1.0.6"), "personalize"},
		"policy":       {replace("policy_type: isolated", "policy_type: host-access"), "personalize"}, // a default route
		"bridge":       {replace("policy_type: isolated", "policy_type: isolated, peers: isolated, allow_icmp: true"), ""},
		"network":      {replace("memory: 512M", "memory: 512M, hooks: {network: true}"), "hooks"},
		"size of disk": {replace("memory: 512M", "memory: 512M, disk_size: 3G"), "delta pack"},
		"engine":       {replace("memory: 512M", "memory: 512M, bootstrap: debootstrap"), "bootstrap"},
		"comment":      {replace("virtual_machines:", "# note\nvirtual_machines:"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := project(t, "testdata/one.txtar")
			before := ofFirst(t, root)
			if err := test.change(root); err != nil {
				t.Fatal(err)
			}
			after := ofFirst(t, root)
			var changed []string
			for _, stage := range []string{"boot", "bootstrap", "delta", "disk", "hooks", "initrd", "kernel", "overlay", "pack", "packages", "personalize"} {
				if before[stage] != after[stage] {
					changed = append(changed, stage)
				}
			}
			if got := strings.Join(changed, " "); got != test.changed {
				t.Errorf("changed: %q, want %q", got, test.changed)
			}
		})
	}
}

func edit(name, text string) func(string) error {
	return func(root string) error {
		return os.WriteFile(filepath.Join(root, "constellations/one", name), []byte(text), 0o644)
	}
}

func replace(from, to string) func(string) error {
	return func(root string) error {
		file := filepath.Join(root, "constellations/one/manifest.yml")
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return os.WriteFile(file, []byte(strings.Replace(string(b), from, to, 1)), 0o644)
	}
}

// ofFirst returns, by stage, the key texts of the nodes that the first machine needs,
// without the digests of their inputs.
func ofFirst(t *testing.T, root string) map[string]string {
	t.Helper()
	o := options(root)
	o.Boot = true
	p := new(graph.Plan)
	return keyTexts(addTo(t, p, root, "one", o)[0])
}

func keyTexts(m *Machine) map[string]string {
	texts := make(map[string]string)
	var visit func(n *graph.Node)
	visit = func(n *graph.Node) {
		texts[n.Stage] = string(graph.KeyText(n, make([]digest.Digest, len(n.Inputs))))
		for _, in := range n.Inputs {
			visit(in.Node)
		}
	}
	for _, n := range m.Targets() {
		visit(n)
	}
	return texts
}

// Only the options in a kernel's fragments count, not their names or order. The rest of
// the machine does not depend on them.
func TestChangedKernelNodes(t *testing.T) {
	kernels := func(name, text string) func(string) error {
		return func(root string) error {
			return os.WriteFile(filepath.Join(root, "constellations/kernels", name), []byte(text), 0o644)
		}
	}
	manifest := func(from, to string) func(string) error {
		return func(root string) error {
			file := filepath.Join(root, "constellations/kernels/manifest.yml")
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			return os.WriteFile(file, []byte(strings.Replace(string(b), from, to, 1)), 0o644)
		}
	}
	for name, test := range map[string]struct {
		change  func(root string) error
		changed string
	}{
		"comment":      {kernels("a.config", "# a comment\n\nCONFIG_A=y\n"), ""},
		"order":        {manifest("a.config, b.config", "b.config, a.config"), ""},
		"moved option": {kernels("b.config", "CONFIG_A=y\n# CONFIG_IPV6 is not set\n"), ""},
		"as meros has": {kernels("a.config", "CONFIG_A=y\nCONFIG_EXT4_FS=y\n"), ""},
		"option":       {kernels("a.config", "CONFIG_A=y\nCONFIG_B=y\n"), "kernel-config"},
		"value":        {kernels("a.config", "CONFIG_A=m\n"), "delta kernel-config"}, // the modules are in the image
		"patch":        {manifest("[a.config, b.config]", "[a.config, b.config], patches: [one.patch]"), "kernel-compile kernel-config kernel-patch"},
		"clang":        {manifest("[a.config, b.config]", "[a.config, b.config], debug: true"), "kernel-compile"},
	} {
		t.Run(name, func(t *testing.T) {
			root := project(t, "testdata/kernels.txtar")
			texts := func() map[string]string {
				t.Helper()
				p := new(graph.Plan)
				return keyTexts(addTo(t, p, root, "kernels", options(root))[0])
			}
			before := texts()
			if err := test.change(root); err != nil {
				t.Fatal(err)
			}
			after := texts()
			var changed []string
			for _, stage := range []string{"delta", "disk", "initrd", "kernel-compile", "kernel-config", "kernel-patch", "kernel-source", "pack", "packages", "personalize"} {
				if before[stage] != after[stage] {
					changed = append(changed, stage)
				}
			}
			if got := strings.Join(changed, " "); got != test.changed {
				t.Errorf("changed: %q, want %q", got, test.changed)
			}
		})
	}
}

// based gives a machine an image as its base.
func based(base string) func(string) error {
	return func(root string) error {
		return errors.Join(replace("packages: [openssh-server]", "packages: []")(root), replace("memory: 512M", "memory: 512M, base: "+base)(root))
	}
}

// The error of an impossible plan comes with its next step.
func TestCannotBePlanned(t *testing.T) {
	for name, test := range map[string]struct {
		change func(root string) error
		words  []string
	}{
		"not locked":          {replace("memory: 512M", "memory: 512M, suite: trixie"), []string{"plan one/a: the lock does not have trixie", "hint: `meros lock one`"}},
		"no kernel file":      {replace("memory: 512M", "memory: 512M, kernel: data/disks/bzImage"), []string{"kernel data/disks/bzImage does not exist", "hint: `kernel: distro`"}},
		"not a file":          {based("/dev/zero"), []string{"base image /dev/zero: this is not a regular file", "hint: convert a device with `qemu-img convert`"}},
		"base is a directory": {based("constellations"), []string{"base image constellations: this is a directory", "hint: `oci:PATH` reads a container image in a directory"}},
		"disk is a directory": {replace("memory: 512M", "memory: 512M, disks: [{label: d, base: constellations}]"), []string{"the base of disk d constellations: this is a directory", "hint: name a file with a disk image"}},
		"dangling hook": {func(root string) error {
			return os.Symlink("/nowhere", filepath.Join(root, "constellations/one/a/hooks/0300.chroot"))
		}, []string{"hooks/0300.chroot", "no such file"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := project(t, "testdata/one.txtar")
			if err := test.change(root); err != nil {
				t.Fatal(err)
			}
			_, err := tryAddTo(new(graph.Plan), root, "one", options(root))
			text := fmt.Sprintf("%v\nhint: %s", err, hint.Of(err))
			for _, w := range test.words {
				if err == nil || !strings.Contains(text, w) {
					t.Errorf("%s, without %q", text, w)
				}
			}
		})
	}
}

// The package that starts an Alpine system has to be among its packages.
func TestSetupIsThere(t *testing.T) {
	for setup, want := range map[string]string{"openrc": "setup of a is openrc, but the package openrc is not among its packages", "busybox": ""} {
		root := project(t, "testdata/systems.txtar")
		file := filepath.Join(root, "constellations/systems/manifest.yml")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(strings.Replace(string(b), "user: me", "user: me, setup: "+setup, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err = tryAddTo(new(graph.Plan), root, "systems", options(root))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", setup, err, want)
		}
	}
}

// A manifest's kernel is a path relative to the root or to the constellation.
func TestKernelFile(t *testing.T) {
	root := project(t, "testdata/one.txtar")
	if err := replace("memory: 512M", "memory: 512M, kernel: bzImage")(root); err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{"constellations/one/bzImage", "bzImage"} {
		file := filepath.Join(root, where)
		if err := os.WriteFile(file, []byte("kernel"), 0o644); err != nil {
			t.Fatal(err)
		}
		m := addTo(t, new(graph.Plan), root, "one", options(root))[0]
		if m.KernelPath != file || m.Kernel != nil {
			t.Errorf("%q, %v; want %q", m.KernelPath, m.Kernel, file)
		}
	}
}

// The machines list all files of the host that a manifest names.
func TestNamed(t *testing.T) {
	for name, want := range map[string]string{
		"kernels": "a.config b.config linux modules.config old.config one.patch two.patch", "systems": "k.rsa.pub old.vmdk",
	} {
		root := project(t, "testdata/"+name+".txtar")
		found := make(map[string]bool)
		for _, m := range addTo(t, new(graph.Plan), root, name, options(root)) {
			for _, file := range m.Named {
				found[strings.TrimPrefix(file, filepath.Join(root, "constellations", name)+"/")] = true
			}
		}
		if got := strings.Join(slices.Sorted(maps.Keys(found)), " "); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
