// This file writes a machine's own files as a layer: its name, hosts, mounts and
// network.

package guest

import (
	"archive/tar"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// File is a file, symbolic link or directory of a guest.
type File struct {
	Path     string // without a leading /
	Mode     int64
	UID, GID int
	Data     []byte
	Link     string // target, if it is a symbolic link
	Dir      bool
	parent   bool // the layer only passes through it
}

// WriteLayer writes the files as a layer (see runner/layer for the format), all with
// the time t. Directories that base has stay unchanged. base may be nil.
func WriteLayer(w io.Writer, files []File, t time.Time, base Describe) error {
	byPath := make(map[string]File)
	for _, f := range files {
		if f.Path = path.Clean(f.Path); !filepath.IsLocal(f.Path) || f.Path == "." {
			return fmt.Errorf("invalid file path %q", f.Path)
		}
		var err error
		as := f.Path
		if f.Dir { // the directory itself may be a link
			f.Path, err = base.follow(path.Join(as, "x"))
			f.Path = path.Dir(f.Path)
		} else {
			f.Path, err = base.follow(as)
		}
		if err != nil {
			return err
		}
		if f.Link != "" && path.Join(path.Dir(as), f.Link) == f.Path {
			continue // through a link of base it would point to itself
		}
		for d := path.Dir(f.Path); d != "."; d = path.Dir(d) {
			if _, ok := byPath[d]; !ok {
				byPath[d] = File{Path: d, Mode: 0o755, Dir: true, parent: true} // like Debian's base-files and Alpine
			}
		}
		byPath[f.Path] = f
	}
	tw := tar.NewWriter(w)
	names := slices.SortedFunc(maps.Keys(byPath), func(a, b string) int {
		return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
	})
	for _, name := range names {
		f := byPath[name]
		if h := base.directory(f, t); h != nil {
			if err := tw.WriteHeader(h); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			continue
		}
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: f.Mode, Uid: f.UID, Gid: f.GID, Size: int64(len(f.Data)), ModTime: t, Format: tar.FormatPAX}
		switch {
		case f.Dir:
			h.Typeflag, h.Name, h.Size = tar.TypeDir, name+"/", 0
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Mode, h.Size = tar.TypeSymlink, f.Link, 0o777, 0
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := tw.Write(f.Data); err != nil {
				return err
			}
		}
	}
	return tw.Close()
}

// Interface is a network interface, identified by its MAC address.
type Interface struct {
	MAC     string
	Address string // with prefix length; empty means DHCP
	Gateway string
	Routes  []string // other networks that Via leads to
	Via     string
	DNS     string
}

// hosts holds the host names that a system resolves itself, hosts(5).
const hosts = "etc/hosts"

// Name returns the files that name a system: hostname(5) and hosts(5). Existing
// lines of hosts are preserved. If there is a domain, the names of others also exist
// within it.
func (a Accounts) Name(host, domain string, others map[string]string) []File {
	lines := [][]string{{"127.0.0.1", "localhost"}, {"127.0.1.1", host}, {"::1", "localhost", "ip6-localhost", "ip6-loopback"}, {"ff02::1", "ip6-allnodes"}, {"ff02::2", "ip6-allrouters"}}
	for _, name := range slices.Sorted(maps.Keys(others)) {
		if name == host {
			continue
		}
		l := []string{others[name], name}
		if domain != "" {
			l = append(l, name+"."+domain)
		}
		lines = append(lines, l)
	}
	var b strings.Builder
	known := make(map[string]bool)
	for _, l := range lines {
		b.WriteString(strings.Join(l, "\t") + "\n")
		for _, name := range l[1:] {
			known[l[0]+" "+name] = true
		}
	}
	for line := range strings.Lines(string(a[hosts])) {
		text, _, _ := strings.Cut(line, "#")
		f := strings.Fields(text)
		if len(f) < 2 {
			continue // a comment may describe a line that is replaced
		}
		names := slices.DeleteFunc(f[1:], func(name string) bool { return known[f[0]+" "+name] })
		if len(names) > 0 {
			b.WriteString(f[0] + "\t" + strings.Join(names, "\t") + "\n")
		}
	}
	return []File{
		{Path: "etc/hostname", Mode: 0o644, Data: []byte(host + "\n")},
		{Path: hosts, Mode: 0o644, Data: []byte(b.String())},
	}
}

// Resolver returns resolv.conf(5).
func Resolver(domain string, servers []string) File {
	text := "search " + domain + "\n"
	for _, s := range servers {
		text += "nameserver " + s + "\n"
	}
	return File{Path: "etc/resolv.conf", Mode: 0o644, Data: []byte(text)}
}

// fstab lists the mounts of a system at boot, fstab(5).
const fstab = "etc/fstab"

// Mount is a line of fstab(5).
type Mount struct {
	What, Where, Type, Options string
	Pass                       int // order of the file system checks; 0 means no check
}

// Fstab returns fstab(5) with mounts added. The system creates their directories at
// boot.
func (a Accounts) Fstab(mounts []Mount) []File {
	if len(mounts) == 0 {
		return nil
	}
	text := string(a[fstab])
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	for _, m := range mounts {
		text += fmt.Sprintf("%s %s %s %s 0 %d\n", m.What, m.Where, m.Type, m.Options, m.Pass)
	}
	return []File{{Path: fstab, Mode: 0o644, Data: []byte(text)}}
}

// Network returns the files that configure and enable systemd-networkd(8). It
// configures every interface that is not listed by DHCP.
func Network(interfaces []Interface) []File {
	var fs []File
	for i, n := range interfaces {
		var b strings.Builder
		fmt.Fprintf(&b, "[Match]\nMACAddress=%s\n\n[Network]\n", n.MAC)
		if n.Address == "" {
			b.WriteString("DHCP=yes\n")
		} else {
			fmt.Fprintf(&b, "Address=%s\n", n.Address)
			for _, o := range [][2]string{{"Gateway", n.Gateway}, {"DNS", n.DNS}} {
				if o[1] != "" {
					fmt.Fprintf(&b, "%s=%s\n", o[0], o[1])
				}
			}
			for _, r := range n.Routes {
				fmt.Fprintf(&b, "\n[Route]\nDestination=%s\nGateway=%s\n", r, n.Via)
			}
		}
		fs = append(fs, File{Path: fmt.Sprintf("etc/systemd/network/10-meros%d.network", i), Mode: 0o644, Data: []byte(b.String())})
	}
	fs = append(fs, File{Path: "etc/systemd/network/90-meros-dhcp.network", Mode: 0o644, Data: []byte("[Match]\nType=ether\n\n[Network]\nDHCP=yes\n")})
	const unit = "systemd-networkd.service"
	return append(fs, File{Path: "etc/systemd/system/multi-user.target.wants/" + unit, Link: "/lib/systemd/system/" + unit})
}

// atOnce begins an interface in interfaces(5). It disables the detection of
// duplicate IPv6 addresses, for which Alpine's scripts wait several seconds. The
// address is unique, because it follows from a unique MAC address.
const atOnce = "\nauto %[1]s\niface %[1]s inet %[2]s\n\tpre-up sysctl -qw net.ipv6.conf.%[1]s.accept_dad=0 || true\n"

// Interfaces returns the files that configure ifupdown, interfaces(5). The first
// interface of the machine uses DHCP, the listed ones follow it. ifupdown identifies
// them by their order, which is that of the devices.
func Interfaces(interfaces []Interface) []File {
	var b strings.Builder
	fmt.Fprintf(&b, "auto lo\niface lo inet loopback\n"+atOnce, "eth0", "dhcp")
	for i, n := range interfaces {
		name := fmt.Sprintf("eth%d", i+1)
		p, err := netip.ParsePrefix(n.Address)
		if err != nil {
			fmt.Fprintf(&b, atOnce, name, "dhcp")
			continue
		}
		fmt.Fprintf(&b, atOnce+"\taddress %[3]s\n\tnetmask %[4]s\n", name, "static", p.Addr(), net.IP(net.CIDRMask(p.Bits(), p.Addr().BitLen())))
		if n.Gateway != "" {
			fmt.Fprintf(&b, "\tgateway %s\n", n.Gateway)
		}
		for _, r := range n.Routes {
			fmt.Fprintf(&b, "\tup ip route add %s via %s\n", r, n.Via)
		}
	}
	return []File{{Path: "etc/network/interfaces", Mode: 0o644, Data: []byte(b.String())}}
}
