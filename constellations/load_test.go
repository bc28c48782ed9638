// This file tests the loader: its mistakes against golden files, and manifests of the
// Python version.

package constellations

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"meros/runner/hint"
)

var update = flag.Bool("update", false, "write the golden files")

// TestMistakes checks the reported mistakes of every testdata/*.yml. It also checks
// that each is short and keeps its next step in the hint.
func TestMistakes(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.yml")
	if len(files) == 0 {
		t.Fatal("no test data")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			m, err := Parse("test", "manifest.yml", src)
			if err == nil {
				t.Fatalf("no mistake found in %+v", m)
			}
			errs, ok := err.(*Errors)
			if !ok {
				t.Fatalf("got a %T: %v", err, err)
			}
			for _, p := range errs.Problems {
				if n := len([]rune(p.Text())); n > 160 {
					t.Errorf("%d characters, at most 160 are wanted: %s", n, p.Text())
				}
				if strings.Contains(p.Message, "did you mean") || strings.HasSuffix(p.Message, ")") {
					t.Errorf("a hint within the message: %s", p.Message)
				}
			}
			golden(t, strings.TrimSuffix(file, ".yml")+".golden", err.Error()+"\n")
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
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// pythonLab has the shapes of manifests of the Python version.
const pythonLab = `
bridges:
  lab_br0:
    subnet: "10.0.10.0/24"
    policy_type: host-access
    allowed_ports: [22, 80, 443]
    allowed_ips: [192.168.100.0/24]
virtual_machines:
  vm_one:
    arch: "x86_64"
    distribution: debian
    disk_size: 2G
    memory: 512
    cpus: 1
    kernel: data/disks/bzImage
    kvm: true
    display: false
    build_free_mb: 500
    disks:
      - {label: data, size_gb: 4, fs_type: ext4, mount_point: /srv}
    networks:
      - label: tap_vmname_01_
        bridge: lab_br0
        ip_addr: "10.0.10.21"
        model: virtio-net-pci
        mac: "52:54:00:AB:CD:EF"
    extra_args: ["-device virtio-gpu", "-name 'a b'"]
    qemu_args: -no-reboot
`

func TestPythonManifestsLoad(t *testing.T) {
	m, err := Parse("lab", "lab.yml", []byte(pythonLab))
	if err != nil {
		t.Fatal(err)
	}
	want := Machine{
		Name: "vm_one", Arch: "x86_64", Distribution: "debian", Suite: "bookworm", Kernel: Kernel{Kind: KernelImage, Location: "data/disks/bzImage", Line: 15},
		DiskSize: 2 << 30, Memory: 512 << 20, CPUs: 1, KVM: KVMAuto, BuildFreeMB: 500, Bootstrap: "meros", User: "root", Line: 9,
		Disks:    []Disk{{Label: "data", Size: 4 << 30, FSType: "ext4", MountPoint: "/srv"}},
		Networks: []Network{{"tap_vmname_01_", "lab_br0", netip.MustParseAddr("10.0.10.21"), "virtio-net-pci", "52:54:00:ab:cd:ef"}},
		QEMUArgs: []string{"-no-reboot", "-device", "virtio-gpu", "-name", "a b"},
	}
	if !reflect.DeepEqual(m.Machines[0], want) {
		t.Errorf("got  %+v\nwant %+v", m.Machines[0], want)
	}
	b := m.Bridges[0]
	if b.Name != "lab_br0" || b.Policy != HostAccess || len(b.AllowedPorts) != 3 || b.AllowedIPs[0].String() != "192.168.100.0/24" || !b.AllowICMP || !b.AutoCreate {
		t.Errorf("bridge %+v", b)
	}
	for name, src := range map[string]string{
		"alpine":  "bridges:\n  br0:\n    allowed_ips: 172.0.0.1\nvirtual_machines:\n  alp:\n    distribution: alpine\n    build_free_mb: 200\n    networks:\n      - {label: tap0, bridge: br0}\n",
		"proxmox": "bridges: {vmbr0: {subnet: 10.1.0.0/24, policy_type: isolated}}\nvirtual_machines:\n  pve:\n    arch: aarch64\n    kvm: false\n    memory: 4G\n    extra_args:\n      - -bios /usr/share/qemu-efi-aarch64/QEMU_EFI.fd\n    networks: [{label: pve0, bridge: vmbr0, model: virtio}]\n",
	} {
		if _, err := Parse(name, name+".yml", []byte(src)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDefaultsAndMerging(t *testing.T) {
	m, err := Parse("x", "manifest.yml", []byte(`
packages: [bb, aa]
suite: trixie
hooks: {network: true}
virtual_machines:
  one: &base
    packages: [cc, aa]
    memory: 1.5G
  two:
    <<: *base
    memory: 512M
    suite: bookworm
  three:
  four: {base: image.qcow2}
`))
	if err != nil {
		t.Fatal(err)
	}
	one, two, three := m.Machines[0], m.Machines[1], m.Machines[2]
	if got := strings.Join(one.Packages, " "); got != "aa bb cc" || one.Memory != 3<<29 || one.Suite != "trixie" || !one.Hooks.Network {
		t.Errorf("one: %+v", one)
	}
	if got := strings.Join(two.Packages, " "); got != "aa bb cc" || two.Memory != 512<<20 || two.Suite != "bookworm" {
		t.Errorf("two: %+v", two)
	}
	if four := m.Machines[3]; len(four.Packages) > 0 {
		t.Errorf("four: %+v", four)
	}
	if got := strings.Join(three.Packages, " "); got != "aa bb" || three.Kernel.Kind != KernelDistro || three.User != "root" {
		t.Errorf("three: %+v", three)
	}
}

func TestFindSuggests(t *testing.T) {
	root := t.TempDir()
	for _, n := range []string{"lab", "demo"} {
		dir := filepath.Join(root, "constellations", n)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "manifest.yml"), []byte("virtual_machines: {web: {}}"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"lba":    "there is no constellation \"lba\"\ndid you mean \"lab\"?",
		"zzzzzz": "there is no constellation \"zzzzzz\"\nthere are: demo, lab",
		"../lab": "cannot be the name",
		"a/b":    "cannot be the name",
	} {
		if _, err := Find(root, name); err == nil || !strings.Contains(err.Error()+"\n"+hint.Of(err), want) {
			t.Errorf("%s: %v, hint %q", name, err, hint.Of(err))
		}
	}
	m, err := Find(root, "lab")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Machine("wbe"); err == nil || hint.Of(err) != `did you mean "web"?` {
		t.Errorf("machine: %v, hint %q", err, hint.Of(err))
	}
}

func TestExamplesLoad(t *testing.T) {
	names, err := List("..")
	if err != nil || len(names) < 2 {
		t.Fatalf("examples: %v %v", names, err)
	}
	for _, n := range names {
		if _, err := Find("..", n); err != nil {
			t.Error(err)
		}
	}
}

func TestSplitWords(t *testing.T) {
	for in, want := range map[string][]string{
		`a  b`:               {"a", "b"},
		`-append "x y"z`:     {"-append", "x yz"},
		`'it''s' "\"q\" \n"`: {"its", `"q" \n`},
		`a\ b '' ""`:         {"a b", "", ""},
		"":                   nil,
		"$HOME `x` *":        {"$HOME", "`x`", "*"},
	} {
		if got, err := splitWords(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{`'a`, `"a`, `a\`} {
		if _, err := splitWords(in); err == nil {
			t.Errorf("%q was accepted", in)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"2G": 2 << 30, "512M": 512 << 20, "512": 512 << 20, "1.5g": 3 << 29, "2GiB": 2 << 30, "2GB": 2 << 30, "100B": 100} {
		if got, err := ParseSize(in, 1<<20); err != nil || got != want {
			t.Errorf("%s: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "G", "-1G", "1X", "0x10", "1e400", "NaN", "2G2"} {
		if v, err := ParseSize(in, 1); err == nil {
			t.Errorf("%q is %d", in, v)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yml")
	for _, file := range files {
		src, _ := os.ReadFile(file)
		f.Add(src)
	}
	f.Add([]byte(pythonLab))
	f.Add([]byte("a: &a [*a]\nvirtual_machines: {b: {<<: *a}}"))
	f.Fuzz(func(t *testing.T, src []byte) {
		m, err := Parse("fuzz", "manifest.yml", src)
		if (m == nil) == (err == nil) {
			t.Errorf("manifest %v and error %v", m, err)
		}
	})
}

func BenchmarkParse1000(b *testing.B) {
	var s strings.Builder
	s.WriteString("bridges: {br0: {subnet: 10.0.0.0/16}}\nvirtual_machines:\n")
	for i := range 1000 {
		fmt.Fprintf(&s, "  vm%d:\n    memory: 512M\n    packages: [openssh-server, nginx]\n    networks:\n      - {label: t%d, bridge: br0, ip_addr: 10.0.%d.%d}\n", i, i, 1+i/200, 2+i%200)
	}
	for b.Loop() {
		if _, err := Parse("x", "manifest.yml", []byte(s.String())); err != nil {
			b.Fatal(err)
		}
	}
}
