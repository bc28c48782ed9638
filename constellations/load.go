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
)

// Words that a manifest may use.
var (
	arches        = arch.Words()
	distributions = []string{"debian", "alpine", "ubuntu"}
	fsTypes       = []string{"ext4", "ext3", "ext2", "btrfs", "xfs", "swap", "vfat"}
	formats       = []string{"qcow2", "raw", "tar", "oci", "squashfs", "erofs"}
	models        = []string{"virtio", "virtio-net-pci", "virtio-net-device", "e1000", "e1000e", "rtl8139", "vmxnet3"}
)

// Bounds of what a machine may ask for.
const (
	minMemory   = 16 << 20
	maxMemory   = 16 << 40
	minDisk     = 1 << 20
	maxDisk     = 64 << 40
	maxCPUs     = 1024
	defaultFree = 512 // MiB
)

// Load reads the manifest in dir: manifest.yml, or <name of dir>.yml as the
// ancestor had it. Mistakes in it are an *[Errors] with all of them.
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
		return nil, fmt.Errorf("%s and %s are both there (remove the one that is not meant)", file, old)
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

// Find loads the constellation called name below root.
func Find(root, name string) (*Manifest, error) {
	if !IsName(name) {
		return nil, fmt.Errorf("%q cannot be the name of a constellation: small letters, digits, hyphens and underscores", name)
	}
	dir := filepath.Join(root, "constellations", name)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		known, err := List(root)
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("there is no constellation %q%s", name, suggest(name, known))
	}
	return Load(dir)
}

// IsName tells whether s may be a host name, a part of one, and a file name:
// RFC 1123, section 2.1, in small letters, and with the underscore that names
// of the ancestor's machines have.
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
	depends map[string]place // of each machine's depends_on
}

// Parse reads the text of a manifest. file is only what errors call it.
func Parse(name, file string, src []byte) (*Manifest, error) {
	ps := newProblems(file, src)
	if !IsName(name) {
		ps.add(0, 0, "rename its directory", "%q cannot be the name of a constellation: small letters, digits, hyphens and underscores", name)
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

// DefaultMachine is a machine of which a manifest says nothing but its name.
func DefaultMachine() Machine {
	return Machine{
		Arch: "x86_64", Distribution: "debian", Suite: "bookworm", Kernel: Kernel{Kind: KernelDistro}, Memory: 2 << 30, CPUs: 2,
		KVM: KVMAuto, BuildFreeMB: defaultFree, Bootstrap: "meros", User: "root",
	}
}

// top reads the whole file. The bridges and the defaults are read before the
// machines, wherever they stand.
func (l *loader) top(body ast.Node) {
	defaults := DefaultMachine()
	var machines ast.Node
	fields := l.buildFields(&defaults)
	fields["bridges"] = l.readBridges
	fields["virtual_machines"] = func(n ast.Node) { machines = n }
	l.fields(body, "a manifest", fields)
	if machines == nil {
		l.addAt(placeOf(body), "virtual_machines: {NAME: {...}}", "it has no virtual_machines")
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

// buildFields are the keys that may stand at a machine, and at the top for all
// of them.
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

// placed notes where some of the fields are, as they are read.
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
		l.addAt(p.at, "", "%q cannot be a machine's name, which is its host name: small letters, digits, hyphens and underscores, at most 63", p.key)
	}
	if p.key == "common" {
		l.addAt(p.at, "", "a machine cannot be called common: that directory is for all machines")
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
			l.addAt(p.at, "", "bootstrap: %s is of Debian; machine %s is of Alpine", vm.Bootstrap, vm.Name)
		}
		if suite, ok := at["suite"]; ok {
			l.addAt(suite, "release: latest-stable, edge or a branch such as v3.20", "suite is of Debian and Ubuntu; machine %s is of Alpine", vm.Name)
		}
	} else if release, ok := at["release"]; ok {
		l.addAt(release, "suite: "+vm.Suite+" (or distribution: alpine)", "release is of Alpine; machine %s is of %s", vm.Name, vm.Distribution)
	}
	if vm.Base != "" {
		if own != nil {
			l.addAt(*own, `"hooks: {network: true}" and a hook that installs them`, "packages are not installed into an image that is there already, which is the base of machine %s", vm.Name)
		}
		vm.Packages = nil // those given at the top are of the other machines
	}
	if vm.Format == "erofs" && vm.Compress != "" {
		l.addAt(p.at, "squashfs is", "erofs is not compressed with zstd by the mkfs.erofs of most distributions; machine %s has both", vm.Name)
	}
	if vm.BaseSHA256 != "" && !ImageURL(vm.Base) {
		l.addAt(p.at, "", "base_sha256 is of a base that is a URL; machine %s has none", vm.Name)
	}
	l.m.Machines = append(l.m.Machines, vm)
}

// kvm is a truth value, as in the ancestor, or a word.
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
				l.addAt(placeOf(e), "", "an empty disk has no partitions, one with a base may")
			}
			if least := leastDisk[d.FSType]; d.Size > 0 && d.Size < least {
				l.addAt(sizeAt, fmt.Sprintf("size_gb: %dM", least>>20), "a file system of type %s has at least %d MiB", d.FSType, least>>20)
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
			l.addAt(mountAt, "", "a disk of %s cannot be mounted at %s", d.FSType, d.MountPoint)
		case slices.ContainsFunc(ds, func(o Disk) bool { return o.MountPoint == d.MountPoint }):
			l.addAt(mountAt, "", "two disks are mounted at %s", d.MountPoint)
		}
		if ds = append(ds, d); len(ds) == maxDisks+1 {
			l.addAt(placeOf(e), "", "a machine has at most %d further disks", maxDisks)
		}
	}
	return ds
}

// leastDisk is what the file systems need that need much, bytes: mkfs.xfs(8),
// and mkfs.btrfs(8) with blocks of 4096 bytes.
var leastDisk = map[string]int64{"xfs": 300 << 20, "btrfs": 109 << 20}

// maxDisks is how many letters there are for /dev/vdb and those after it.
const maxDisks = 'z' - 'b' + 1

func (l *loader) mountPoint(n ast.Node) string {
	s := l.text(n)
	if s != "" && (!strings.HasPrefix(s, "/") || strings.ContainsAny(s, " \t\n\\") || filepath.Clean(s) != s) {
		l.addAt(placeOf(n), "", "%q is no absolute path without spaces", s)
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
			l.addAt(placeOf(e), "{source: ./site, target: /srv/site}", "a mount needs a source and a target")
		case m.Target == "/":
			l.addAt(placeOf(e), "", "nothing can be mounted over the machine's root")
		case slices.ContainsFunc(ms, func(o Mount) bool { return o.Target == m.Target }):
			l.addAt(placeOf(e), "", "two mounts have the target %s", m.Target)
		}
		ms = append(ms, m)
	}
	return ms
}

// probes are what shows that a machine is ready; ssh always is one of them.
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
			l.addAt(placeOf(e), "ssh, {tcp: 80} or {exec: \"test -e /run/up\"}", "a probe is either a port or a command")
			continue
		}
		ps = append(ps, p)
	}
	return ps
}

// args are the words of a list of strings, or of one.
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
