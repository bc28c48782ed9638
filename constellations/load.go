// This file reads the machines of a manifest. Each key has one reading function;
// validate.go checks values against each other.

package constellations

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"meros/runner/arch"
	"meros/runner/hint"
)

// Accepted values of keys.
var (
	arches        = arch.Words()
	distributions = []string{"debian", "alpine", "ubuntu"}
	fsTypes       = []string{"ext4", "ext3", "ext2", "btrfs", "xfs", "swap", "vfat"}
	formats       = []string{"qcow2", "raw", "tar", "oci", "squashfs", "erofs"}
	models        = []string{"virtio", "virtio-net-pci", "virtio-net-device", "e1000", "e1000e", "rtl8139", "vmxnet3"}
)

// Bounds of the values of a machine, in bytes unless noted.
const (
	minMemory   = 16 << 20
	maxMemory   = 16 << 40
	minDisk     = 1 << 20
	maxDisk     = 64 << 40
	maxCPUs     = 1024
	defaultFree = 512 // MiB
)

// Load reads the manifest in dir: manifest.yml, or <name of dir>.yml, the name in
// the Python version. It reports all mistakes together, as an *[Errors].
func Load(dir string) (*Manifest, error) {
	name := filepath.Base(dir)
	file := filepath.Join(dir, "manifest.yml")
	src, err := os.ReadFile(file)
	old := filepath.Join(dir, name+".yml")
	if errors.Is(err, fs.ErrNotExist) {
		var oldErr error
		if src, oldErr = os.ReadFile(old); oldErr == nil {
			file, err = old, nil
		}
	} else if _, both := os.Lstat(old); both == nil && err == nil {
		return nil, hint.Add(fmt.Errorf("there are two manifests, %s and %s", file, old), "remove one of them")
	}
	if err != nil {
		return nil, fmt.Errorf("load constellation %s: %w", name, err)
	}
	m, err := Parse(name, file, src)
	if m != nil {
		m.Dir = dir
	}
	return m, err
}

// List returns the names of the constellations below root, sorted.
func List(root string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(root, "constellations"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		for _, f := range []string{"manifest.yml", e.Name() + ".yml"} {
			if _, err := os.Lstat(filepath.Join(root, "constellations", e.Name(), f)); err == nil {
				names = append(names, e.Name())
				break
			}
		}
	}
	return names, nil
}

// nameHint describes the names that [IsName] accepts.
const nameHint = "a name has small letters, digits, hyphens and underscores, at most 63"

// Find loads the constellation called name below root.
func Find(root, name string) (*Manifest, error) {
	if !IsName(name) {
		return nil, hint.Add(fmt.Errorf("%q cannot be the name of a constellation", name), nameHint)
	}
	dir := filepath.Join(root, "constellations", name)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		known, err := List(root)
		if err != nil {
			return nil, err
		}
		return nil, hint.Add(fmt.Errorf("there is no constellation %q", name), "%s", suggest(name, known))
	}
	return Load(dir)
}

// IsName reports whether s may be a host name, a part of one, and a file name:
// RFC 1123, section 2.1, in small letters. It also accepts underscores, which
// names of the Python version's machines have.
func IsName(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// loader reads a manifest.
type loader struct {
	*document
	m       *Manifest
	bridges map[string]place
	depends map[string]place // of depends_on, by machine
}

// Parse parses the text of a manifest. file is its name in errors.
func Parse(name, file string, src []byte) (*Manifest, error) {
	ps := newProblems(file, src)
	if !IsName(name) {
		ps.add(0, 0, "rename its directory: "+nameHint, "%q cannot be the name of a constellation", name)
	}
	d, body := parseDocument(ps, src)
	if err := ps.err(); err != nil && body == nil {
		return nil, err
	}
	l := &loader{document: d, m: &Manifest{Name: name}, bridges: make(map[string]place), depends: make(map[string]place)}
	l.top(body)
	l.validate()
	if err := ps.err(); err != nil {
		return nil, err
	}
	return l.m, nil
}

// DefaultMachine returns a machine with all defaults. Its name is empty.
func DefaultMachine() Machine {
	return Machine{
		Arch: "x86_64", Distribution: "debian", Suite: "bookworm", Kernel: Kernel{Kind: KernelDistro}, Memory: 2 << 30, CPUs: 2,
		KVM: KVMAuto, BuildFreeMB: defaultFree, Bootstrap: "meros", User: "root",
	}
}

// top reads the whole file. It reads bridges and defaults before the machines,
// whatever their order in the file.
func (l *loader) top(body ast.Node) {
	defaults := DefaultMachine()
	var machines ast.Node
	fields := l.buildFields(&defaults)
	fields["bridges"] = l.readBridges
	fields["virtual_machines"] = func(n ast.Node) { machines = n }
	l.fields(body, "a manifest", fields)
	if machines == nil {
		l.addAt(placeOf(body), "add `virtual_machines: {NAME: {}}`", "the manifest has no virtual_machines")
		return
	}
	ps, _ := l.mapping(machines, "virtual_machines")
	if len(ps) == 0 {
		l.addAt(placeOf(machines), "", "virtual_machines is empty")
	}
	for _, p := range ps {
		l.readMachine(p, defaults)
	}
}

// buildFields returns the readers of the keys that may stand at a machine, and at
// the top for all machines.
func (l *loader) buildFields(vm *Machine) map[string]func(ast.Node) {
	return map[string]func(ast.Node){
		"suite": func(n ast.Node) { vm.Suite = l.pattern(n, "suite", suiteName) },
		"release": func(n ast.Node) {
			vm.release = l.pattern(n, "release of Alpine (latest-stable, edge, v3.20)", releaseName)
		},
		"keys":      func(n ast.Node) { vm.Keys = l.texts(n) },
		"mirror":    func(n ast.Node) { vm.Mirror = l.url(n) },
		"packages":  func(n ast.Node) { vm.Packages = l.packages(n, vm.Packages) },
		"bootstrap": func(n ast.Node) { vm.Bootstrap = l.word(n, "bootstrap engine", "meros", "debootstrap") },
		"hooks": func(n ast.Node) {
			l.fields(n, "hooks", map[string]func(ast.Node){
				"network": func(n ast.Node) { vm.Hooks.Network = l.boolean(n) },
				"in":      func(n ast.Node) { vm.Hooks.In = l.word(n, "place for hooks", HooksInSandbox, HooksInVM) },
			})
		},
		"user":       func(n ast.Node) { vm.User = l.pattern(n, "user", userName) },
		"boot_check": func(n ast.Node) { vm.BootCheck = l.boolean(n) },
		"kernel":     func(n ast.Node) { vm.Kernel = l.kernel(n) },
		"format":     func(n ast.Node) { vm.Format = l.word(n, "format", formats...) },
		"compress":   func(n ast.Node) { vm.Compress = l.word(n, "compression", "zstd") },
	}
}

// placed records the places of the named fields as they are read.
func placed(fields map[string]func(ast.Node), names ...string) map[string]place {
	at := make(map[string]place)
	for _, name := range names {
		read := fields[name]
		fields[name] = func(n ast.Node) { at[name] = placeOf(n); read(n) }
	}
	return at
}

func (l *loader) readMachine(p pair, defaults Machine) {
	vm := defaults
	vm.Name, vm.Line = p.key, p.at.line
	vm.Packages = slices.Clone(defaults.Packages)
	if !IsName(p.key) || strings.Contains(p.key, "_") && len(p.key) > 63 {
		l.addAt(p.at, nameHint, "%q cannot be the name of a machine", p.key)
	}
	if p.key == "common" {
		l.addAt(p.at, "the directory common/ has the files of all machines", "a machine cannot be called common")
	}
	var qemuArgs, extraArgs []string
	var own *place // of the machine's packages
	fields := l.buildFields(&vm)
	at := placed(fields, "suite", "release")
	for k, f := range map[string]func(ast.Node){
		"packages": func(n ast.Node) {
			all := len(vm.Packages)
			if vm.Packages = l.packages(n, vm.Packages); len(vm.Packages) > all {
				at := placeOf(n)
				own = &at
			}
		},
		"arch": func(n ast.Node) {
			vm.Arch = arch.Name(l.word(n, "arch", arches...))
		},
		"base":          func(n ast.Node) { vm.Base = l.base(n) },
		"base_sha256":   func(n ast.Node) { vm.BaseSHA256 = l.pattern(n, "sha256 digest", hexDigest) },
		"setup":         func(n ast.Node) { vm.Setup = l.word(n, "setup", "openrc", "busybox") },
		"distribution":  func(n ast.Node) { vm.Distribution = l.word(n, "distribution", distributions...) },
		"disk_size":     func(n ast.Node) { vm.DiskSize = l.size(n, 1<<30, 32<<20, maxDisk) },
		"memory":        func(n ast.Node) { vm.Memory = l.size(n, 1<<20, minMemory, maxMemory) },
		"cpus":          func(n ast.Node) { vm.CPUs = int(l.integer(n, 1, maxCPUs)) },
		"kvm":           func(n ast.Node) { vm.KVM = l.kvm(n) },
		"display":       func(n ast.Node) { vm.Display = l.boolean(n) },
		"build_free_mb": func(n ast.Node) { vm.BuildFreeMB = int(l.integer(n, 0, maxDisk>>20)) },
		"disks":         func(n ast.Node) { vm.Disks = l.disks(n) },
		"networks":      func(n ast.Node) { vm.Networks = l.networks(n) },
		"ports":         func(n ast.Node) { vm.Forwards = l.forwards(n) },
		"mounts":        func(n ast.Node) { vm.Mounts = l.mounts(n) },
		"depends_on":    func(n ast.Node) { vm.DependsOn, l.depends[vm.Name] = l.texts(n), placeOf(n) },
		"ready":         func(n ast.Node) { vm.Ready = l.probes(n) },
		"qemu_args":     func(n ast.Node) { qemuArgs = l.args(n) },
		"extra_args":    func(n ast.Node) { extraArgs = l.args(n) },
	} {
		fields[k] = f
	}
	l.fields(p.value, "a machine", fields)
	vm.QEMUArgs = append(qemuArgs, extraArgs...)
	if vm.Distribution == "ubuntu" && vm.Suite == DefaultMachine().Suite {
		vm.Suite = "noble"
	}
	if vm.Distribution == "alpine" {
		if vm.Suite = vm.release; vm.Suite == "" {
			vm.Suite = "latest-stable"
		}
		if vm.Bootstrap != "meros" {
			l.addAt(p.at, "leave bootstrap out", "bootstrap: %s is for Debian and Ubuntu, but machine %s is an Alpine machine", vm.Bootstrap, vm.Name)
		}
		if suite, ok := at["suite"]; ok {
			l.addAt(suite, "write release: latest-stable, edge or a branch such as v3.20", "suite is for Debian and Ubuntu, but machine %s is an Alpine machine", vm.Name)
		}
	} else if release, ok := at["release"]; ok {
		l.addAt(release, "write suite: "+vm.Suite+", or add distribution: alpine", "release is for Alpine, but the distribution of machine %s is %s", vm.Name, vm.Distribution)
	}
	if vm.Base != "" {
		if own != nil {
			l.addAt(*own, "install them in a hook, with `hooks: {network: true}`", "machine %s has a base, and meros does not install packages into existing images", vm.Name)
		}
		vm.Packages = nil // those at the top are for the other machines
	}
	if vm.Format == "erofs" && vm.Compress != "" {
		l.addAt(p.at, "squashfs can be compressed with zstd", "machine %s has format: erofs with compress: zstd, which mkfs.erofs of most distributions lacks", vm.Name)
	}
	if vm.BaseSHA256 != "" && !ImageURL(vm.Base) {
		l.addAt(p.at, "leave base_sha256 out", "base_sha256 is for a base from a URL, which machine %s does not have", vm.Name)
	}
	l.m.Machines = append(l.m.Machines, vm)
}

// kvm reads a boolean, as in the Python version, or a word.
func (l *loader) kvm(n ast.Node) KVM {
	if b, ok := l.resolve(n).(*ast.BoolNode); ok {
		if b.Value {
			return KVMAuto
		}
		return KVMOff
	}
	return KVM(l.word(n, "value of kvm", string(KVMAuto), string(KVMOn), string(KVMOff)))
}

func (l *loader) disks(n ast.Node) []Disk {
	var ds []Disk
	for _, e := range l.sequence(n) {
		var d Disk
		mountAt, sizeAt := placeOf(e), placeOf(e)
		l.fields(e, "a disk", map[string]func(ast.Node){
			"label":       func(n ast.Node) { d.Label = l.pattern(n, "label", diskLabel) },
			"size_gb":     func(n ast.Node) { d.Size, sizeAt = l.size(n, 1<<30, minDisk, maxDisk), placeOf(n) },
			"fs_type":     func(n ast.Node) { d.FSType = l.word(n, "file system", fsTypes...) },
			"mount_point": func(n ast.Node) { d.MountPoint, mountAt = l.mountPoint(n), placeOf(n) },
			"base":        func(n ast.Node) { d.Base = l.diskBase(n) },
			"partition":   func(n ast.Node) { d.Partition = int(l.integer(n, 1, 128)) },
		})
		if d.Base == "" {
			d.Size, d.FSType = cmp.Or(d.Size, 2<<30), cmp.Or(d.FSType, "ext4")
			if d.Partition > 0 {
				l.addAt(placeOf(e), "leave partition out, or add a base", "an empty disk has no partitions")
			}
			if least := leastDisk[d.FSType]; d.Size > 0 && d.Size < least {
				l.addAt(sizeAt, fmt.Sprintf("write size_gb: %dM", least>>20), "the disk is too small for %s, which needs at least %d MiB", d.FSType, least>>20)
			}
		}
		if d.Label == "" {
			l.addAt(placeOf(e), "", "a disk needs a label")
		} else if slices.ContainsFunc(ds, func(o Disk) bool { return o.Label == d.Label }) {
			l.addAt(placeOf(e), "", "two disks have the label %q", d.Label)
		}
		switch {
		case d.MountPoint == "":
		case d.MountPoint == "/" || d.FSType == "swap":
			l.addAt(mountAt, "", "a disk with %s cannot be mounted at %s", d.FSType, d.MountPoint)
		case slices.ContainsFunc(ds, func(o Disk) bool { return o.MountPoint == d.MountPoint }):
			l.addAt(mountAt, "", "two disks are mounted at %s", d.MountPoint)
		}
		if ds = append(ds, d); len(ds) == maxDisks+1 {
			l.addAt(placeOf(e), "", "a machine has at most %d further disks", maxDisks)
		}
	}
	return ds
}

// leastDisk has the minimum sizes of file systems in bytes, where they are large:
// mkfs.xfs(8), and mkfs.btrfs(8) with blocks of 4096 bytes.
var leastDisk = map[string]int64{"xfs": 300 << 20, "btrfs": 109 << 20}

// maxDisks is the number of letters from /dev/vdb to /dev/vdz.
const maxDisks = 'z' - 'b' + 1

func (l *loader) mountPoint(n ast.Node) string {
	s := l.text(n)
	if s != "" && (!strings.HasPrefix(s, "/") || strings.ContainsAny(s, " \t\n\\") || filepath.Clean(s) != s) {
		l.addAt(placeOf(n), "write an absolute path without spaces and without ..", "%q cannot be a mount point", s)
	}
	return s
}

func (l *loader) mounts(n ast.Node) []Mount {
	var ms []Mount
	for _, e := range l.sequence(n) {
		var m Mount
		l.fields(e, "a mount", map[string]func(ast.Node){
			"source":    func(n ast.Node) { m.Source = l.text(n) },
			"target":    func(n ast.Node) { m.Target = l.mountPoint(n) },
			"read_only": func(n ast.Node) { m.ReadOnly = l.boolean(n) },
		})
		switch {
		case m.Source == "" || m.Target == "":
			l.addAt(placeOf(e), "write {source: ./site, target: /srv/site}", "a mount needs a source and a target")
		case m.Target == "/":
			l.addAt(placeOf(e), "", "a mount cannot replace the root of the machine")
		case slices.ContainsFunc(ms, func(o Mount) bool { return o.Target == m.Target }):
			l.addAt(placeOf(e), "", "two mounts have the target %s", m.Target)
		}
		ms = append(ms, m)
	}
	return ms
}

// probes reads the conditions for a machine to be ready. ssh is always one.
func (l *loader) probes(n ast.Node) []Probe {
	var ps []Probe
	for _, e := range l.sequence(n) {
		if s, ok := l.resolve(e).(*ast.StringNode); ok && s.Value == "ssh" {
			continue
		}
		var p Probe
		l.fields(e, "a probe", map[string]func(ast.Node){
			"tcp":  func(n ast.Node) { p.TCP = uint16(l.integer(n, 1, 65535)) },
			"exec": func(n ast.Node) { p.Exec = l.text(n) },
		})
		if p.TCP != 0 && p.Exec != "" {
			l.addAt(placeOf(e), "write two elements: {tcp: 80} and {exec: \"test -e /run/up\"}", "a probe is either a port or a command, not both")
			continue
		}
		ps = append(ps, p)
	}
	return ps
}

// args reads a string, or a list of strings, and splits each into words.
func (l *loader) args(n ast.Node) []string {
	var words []string
	for _, e := range l.sequence(n) {
		ws, err := splitWords(l.text(e))
		if err != nil {
			l.addAt(placeOf(e), "", "%v", err)
		}
		words = append(words, ws...)
	}
	return words
}
