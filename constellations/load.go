package constellations

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Words that a manifest may use.
var (
	arches        = []string{"x86_64", "aarch64", "riscv64", "i386", "arm", "armhf", "ppc64", "s390x"}
	distributions = []string{"debian", "alpine", "ubuntu"}
	fsTypes       = []string{"ext4", "ext3", "ext2", "btrfs", "xfs", "swap", "vfat"}
	models        = []string{"virtio", "virtio-net-pci", "virtio-net-device", "e1000", "e1000e", "rtl8139", "vmxnet3"}
)

// Bounds of what a machine may ask for.
const (
	minMemory   = 16 << 20
	maxMemory   = 16 << 40
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
	if !isLabel(name) {
		return nil, fmt.Errorf("%q cannot be the name of a constellation: small letters, digits and hyphens", name)
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

// isLabel tells whether s may be a host name, a part of one, and a file name:
// RFC 1123, section 2.1, in small letters, and with the underscore that names
// of the ancestor's machines have.
func isLabel(s string) bool {
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
	if !isLabel(name) {
		ps.add(0, 0, "rename its directory", "%q cannot be the name of a constellation: small letters, digits and hyphens", name)
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

func (l *loader) readBridges(n ast.Node) {
	ps, _ := l.mapping(n, "bridges")
	for _, p := range ps {
		b := Bridge{Name: p.key, Policy: HostAccess, AllowedPorts: []uint16{22, 80, 443}, AllowICMP: true, AutoCreate: true, Line: p.at.line}
		l.checkInterface(p.at, "bridge", p.key)
		l.bridges[p.key] = p.at
		subnet, icmp := p.at, false
		l.fields(p.value, "a bridge", map[string]func(ast.Node){
			"subnet":        func(n ast.Node) { b.Subnet, subnet = l.prefix(n), placeOf(n) },
			"policy_type":   func(n ast.Node) { b.Policy = Policy(l.word(n, "policy", string(HostAccess), string(Isolated))) },
			"allowed_ports": func(n ast.Node) { b.AllowedPorts = l.ports(n) },
			"allowed_ips":   func(n ast.Node) { b.AllowedIPs = l.prefixes(n) },
			"allow_icmp":    func(n ast.Node) { b.AllowICMP, icmp = l.boolean(n), true },
			"peers":         func(n ast.Node) { b.PeersApart = l.word(n, "value of peers", "open", "isolated") == "isolated" },
			"egress":        func(n ast.Node) { b.Egress = l.flows(n) },
			"ingress":       func(n ast.Node) { b.Ingress = l.flows(n) },
			"auto_create":   func(n ast.Node) { b.AutoCreate = l.boolean(n) },
		})
		if !b.Subnet.IsValid() && subnet == p.at {
			b.Subnet = netip.MustParsePrefix("10.10.10.0/24") // the ancestor's default
		}
		if b.Policy == Isolated && !icmp {
			b.AllowICMP = false
		}
		l.checkSubnet(b, subnet)
		l.m.Bridges = append(l.m.Bridges, b)
	}
}

// buildFields are the keys that may stand at a machine, and at the top for all
// of them.
func (l *loader) buildFields(vm *Machine) map[string]func(ast.Node) {
	return map[string]func(ast.Node){
		"suite":     func(n ast.Node) { vm.Suite = l.pattern(n, "suite", suiteName) },
		"mirror":    func(n ast.Node) { vm.Mirror = l.url(n) },
		"packages":  func(n ast.Node) { vm.Packages = l.packages(n, vm.Packages) },
		"bootstrap": func(n ast.Node) { vm.Bootstrap = l.word(n, "bootstrap engine", "meros", "debootstrap") },
		"hooks": func(n ast.Node) {
			l.fields(n, "hooks", map[string]func(ast.Node){"network": func(n ast.Node) { vm.Hooks.Network = l.boolean(n) }})
		},
		"user":       func(n ast.Node) { vm.User = l.pattern(n, "user", userName) },
		"boot_check": func(n ast.Node) { vm.BootCheck = l.boolean(n) },
		"kernel":     func(n ast.Node) { vm.Kernel = l.kernel(n) },
	}
}

func (l *loader) readMachine(p pair, defaults Machine) {
	vm := defaults
	vm.Name, vm.Line = p.key, p.at.line
	vm.Packages = slices.Clone(defaults.Packages)
	if !isLabel(p.key) || strings.Contains(p.key, "_") && len(p.key) > 63 {
		l.addAt(p.at, "", "%q cannot be a machine's name, which is its host name: small letters, digits and hyphens, at most 63", p.key)
	}
	if p.key == "common" {
		l.addAt(p.at, "", "a machine cannot be called common: that directory is for all machines")
	}
	var qemuArgs, extraArgs []string
	fields := l.buildFields(&vm)
	for k, f := range map[string]func(ast.Node){
		"arch":          func(n ast.Node) { vm.Arch = l.word(n, "arch", arches...) },
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
		"depends_on":    func(n ast.Node) { vm.DependsOn, l.depends[vm.Name] = l.texts(n), placeOf(n) },
		"ready":         func(n ast.Node) { vm.Ready = l.probes(n) },
		"qemu_args":     func(n ast.Node) { qemuArgs = l.args(n) },
		"extra_args":    func(n ast.Node) { extraArgs = l.args(n) },
	} {
		fields[k] = f
	}
	l.fields(p.value, "a machine", fields)
	vm.QEMUArgs = append(qemuArgs, extraArgs...)
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
		d := Disk{SizeGB: 2, FSType: "ext4"}
		l.fields(e, "a disk", map[string]func(ast.Node){
			"label":       func(n ast.Node) { d.Label = l.pattern(n, "label", diskLabel) },
			"size_gb":     func(n ast.Node) { d.SizeGB = int(l.integer(n, 1, maxDisk>>30)) },
			"fs_type":     func(n ast.Node) { d.FSType = l.word(n, "file system", fsTypes...) },
			"mount_point": func(n ast.Node) { d.MountPoint = l.mountPoint(n) },
		})
		if d.Label == "" {
			l.addAt(placeOf(e), "", "a disk needs a label")
		} else if slices.ContainsFunc(ds, func(o Disk) bool { return o.Label == d.Label }) {
			l.addAt(placeOf(e), "", "two disks have the label %q", d.Label)
		}
		ds = append(ds, d)
	}
	return ds
}

func (l *loader) mountPoint(n ast.Node) string {
	s := l.text(n)
	if s != "" && (!strings.HasPrefix(s, "/") || strings.ContainsAny(s, " \t\n\\") || filepath.Clean(s) != s) {
		l.addAt(placeOf(n), "", "%q is no absolute path without spaces", s)
	}
	return s
}

func (l *loader) networks(n ast.Node) []Network {
	var ns []Network
	for _, e := range l.sequence(n) {
		x := Network{Model: "virtio"}
		at, labelAt, bridgeAt, ipAt, macAt := placeOf(e), placeOf(e), placeOf(e), placeOf(e), placeOf(e)
		l.fields(e, "a network", map[string]func(ast.Node){
			"label":   func(n ast.Node) { x.Label, labelAt = l.text(n), placeOf(n) },
			"bridge":  func(n ast.Node) { x.Bridge, bridgeAt = l.text(n), placeOf(n) },
			"ip_addr": func(n ast.Node) { x.IPAddr, ipAt = l.addr(n), placeOf(n) },
			"model":   func(n ast.Node) { x.Model = l.word(n, "network device", models...) },
			"mac":     func(n ast.Node) { x.MAC, macAt = l.mac(n), placeOf(n) },
		})
		if x.Label == "" {
			l.addAt(at, "", "a network needs a label, the name of the interface on the host")
		} else {
			l.checkInterface(labelAt, "network label", x.Label)
		}
		l.checkNetwork(x, bridgeAt, ipAt, macAt)
		ns = append(ns, x)
	}
	return ns
}

func (l *loader) flows(n ast.Node) []Flow {
	var fs []Flow
	for _, e := range l.sequence(n) {
		s := l.text(e)
		if s == "" {
			continue // said already
		}
		f, err := ParseFlow(s)
		if err != nil {
			l.addAt(placeOf(e), "NETWORK, NETWORK:PORT or :PORT, with /tcp or /udp", "%v", err)
			continue
		}
		fs = append(fs, f)
	}
	return fs
}

func (l *loader) forwards(n ast.Node) []Forward {
	var fs []Forward
	for _, e := range l.sequence(n) {
		f, err := ParseForward(l.text(e))
		if err != nil {
			l.addAt(placeOf(e), `write it as "127.0.0.1:8080->80"`, "%v", err)
			continue
		}
		fs = append(fs, f)
	}
	return fs
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

func (l *loader) mac(n ast.Node) string {
	s := l.text(n)
	if s == "" {
		return ""
	}
	hw, err := net.ParseMAC(s)
	switch {
	case err != nil || len(hw) != 6:
		l.addAt(placeOf(n), "write it as 52:54:00:12:34:56", "%q is no MAC address", s)
	case hw[0]&1 != 0:
		l.addAt(placeOf(n), "the second digit must be even", "%s is a multicast address, which no interface can have", s)
	default:
		return hw.String()
	}
	return ""
}

func (l *loader) addr(n ast.Node) netip.Addr {
	s := l.text(n)
	if s == "" {
		return netip.Addr{}
	}
	host, _, _ := strings.Cut(s, "/") // some write the prefix length here too
	a, err := netip.ParseAddr(host)
	if err != nil {
		l.addAt(placeOf(n), "", "%q is no IP address", s)
	}
	return a
}

func (l *loader) prefix(n ast.Node) netip.Prefix {
	s := l.text(n)
	p, err := netip.ParsePrefix(s)
	if err != nil {
		l.addAt(placeOf(n), "write it as 10.0.10.0/24", "%q is no subnet", s)
		return netip.Prefix{}
	}
	return p.Masked()
}

// prefixes are networks or single addresses, in a list or separated by commas.
func (l *loader) prefixes(n ast.Node) []netip.Prefix {
	var ps []netip.Prefix
	for _, e := range l.sequence(n) {
		for _, s := range strings.FieldsFunc(l.text(e), func(r rune) bool { return r == ',' || r == ' ' }) {
			if a, err := netip.ParseAddr(s); err == nil {
				ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
			} else if p, err := netip.ParsePrefix(s); err == nil {
				ps = append(ps, p.Masked())
			} else {
				l.addAt(placeOf(e), "", "%q is neither an IP address nor a network", s)
			}
		}
	}
	return ps
}

func (l *loader) ports(n ast.Node) []uint16 {
	var ps []uint16
	for _, e := range l.sequence(n) {
		if p := l.integer(e, 1, 65535); p > 0 {
			ps = append(ps, uint16(p))
		}
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
