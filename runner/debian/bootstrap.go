// This file makes a base system without debootstrap: it unpacks packages in
// parallel, and lets dpkg only configure them.

package debian

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// Bootstrap makes a base system in an empty tree. It unpacks all packages in
// parallel, writes dpkg's database as if dpkg had unpacked them, and runs the
// preinst scripts. Then dpkg configures everything in one run. The files and
// dpkg's status are the same as from mmdebstrap(1).
func Bootstrap(ctx context.Context, o BootstrapOptions) error {
	began := time.Now()
	done := func(phase string) {
		fmt.Fprintf(o.Log, "%s in %.2f s\n", phase, time.Since(began).Seconds())
		began = time.Now()
	}
	debs, err := openAll(ctx, o.Debs, o.jobs())
	if err != nil {
		return err
	}
	defer closeAll(debs)
	t, err := openTree(o.Tree)
	if err != nil {
		return err
	}
	defer t.close()
	done("opened the packages")
	if err := mergeUsr(ctx, t, debs, o.Arch); err != nil {
		return fmt.Errorf("link /bin, /sbin and /lib* into /usr: %w", err)
	}
	unpacked, err := unpackAll(ctx, t, debs, o.jobs())
	if err != nil {
		return err
	}
	done(fmt.Sprintf("unpacked %d packages", len(debs)))
	if err := settleDirs(t, unpacked); err != nil {
		return err
	}
	if err := writeDatabase(t, debs, unpacked); err != nil {
		return fmt.Errorf("write dpkg's database: %w", err)
	}
	done("wrote dpkg's database")
	if err := o.configure(ctx, t, debs, unpacked); err != nil {
		return err
	}
	done("configured the system")
	return nil
}

func (o *BootstrapOptions) jobs() int {
	if o.Jobs > 0 {
		return o.Jobs
	}
	return runtime.NumCPU()
}

// openAll opens packages and sorts them. base-files and base-passwd come first,
// because the scripts of all others rely on them. The others follow by name.
func openAll(ctx context.Context, paths []string, jobs int) ([]*deb, error) {
	debs := make([]*deb, len(paths))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for i, p := range paths {
		g.Go(func() (err error) {
			debs[i], err = openDeb(gctx, p)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		closeAll(debs)
		return nil, err
	}
	rank := func(d *deb) int {
		return slices.Index([]string{"base-passwd", "base-files"}, d.name())
	}
	slices.SortStableFunc(debs, func(a, b *deb) int {
		return cmp.Or(cmp.Compare(rank(b), rank(a)), strings.Compare(a.name(), b.name()))
	})
	for i := 1; i < len(debs); i++ {
		if a, b := debs[i-1], debs[i]; a.name() == b.name() && (a.arch() == b.arch() || !multiArchSame(a)) {
			closeAll(debs)
			return nil, fmt.Errorf("package %s: has the same name as %s", b.path, a.path)
		}
	}
	return debs, nil
}

func closeAll(debs []*deb) {
	for _, d := range debs {
		if d != nil {
			d.close()
		}
	}
}

// libDirs lists by architecture the further directories that debootstrap links
// into /usr. Releases whose base-files does not have the links need them.
var libDirs = map[string][]string{
	"amd64": {"lib32", "lib64", "libx32"}, "i386": {"lib64", "libx32"}, "x32": {"lib32", "lib64", "libx32"},
	"mips": {"lib32", "lib64"}, "mipsel": {"lib32", "lib64"}, "mips64el": {"lib32", "lib64", "libo32"}, "loong64": {"lib32", "lib64"},
	"powerpc": {"lib64"}, "ppc64": {"lib32", "lib64"}, "ppc64el": {"lib64"}, "s390x": {"lib32"}, "sparc64": {"lib32", "lib64"},
}

// mergeUsr makes the links into /usr, before packages are unpacked through them.
// They are those of base-files, or debootstrap's if base-files has none, as before
// Debian 13.
func mergeUsr(ctx context.Context, t tree, debs []*deb, arch string) error {
	links := make(map[string]string)
	for _, d := range debs {
		if d.name() != "base-files" {
			continue
		}
		err := d.contents(ctx, func(h *tar.Header, _ io.Reader) error {
			name := path.Clean(h.Name)
			if h.Typeflag == tar.TypeSymlink && !strings.Contains(name, "/") && h.Linkname == "usr/"+name {
				links[name] = h.Linkname
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if links["bin"] == "" {
		for _, name := range append([]string{"bin", "sbin", "lib"}, libDirs[arch]...) {
			links[name] = "usr/" + name
		}
	}
	for name, target := range links {
		if err := t.mkdirs(target); err != nil {
			return err
		}
		if err := unix.Symlinkat(target, t.fd, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// unpacked describes the unpacked data of a package.
type unpacked struct {
	list []string // as in dpkg's info/NAME.list
	dirs []dirEntry
}

// unpackAll unpacks the packages in parallel. It starts with the largest, so that
// all workers finish at about the same time.
func unpackAll(ctx context.Context, t tree, debs []*deb, jobs int) ([]unpacked, error) {
	out := make([]unpacked, len(debs))
	order := make([]int, len(debs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(debs[b].data.size, debs[a].data.size) })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for _, i := range order {
		g.Go(func() error {
			u := newUnpacker(t, confFiles(debs[i]))
			defer u.close()
			if err := debs[i].contents(ctx, u.entry); err != nil {
				return err
			}
			out[i] = unpacked{u.list, u.dirs}
			return nil
		})
	}
	return out, g.Wait()
}

// settleDirs sets the owner, mode and time of directories. As with dpkg, those of
// the first package that has the directory count.
func settleDirs(t tree, packages []unpacked) error {
	seen := make(map[uint64]bool)
	for _, p := range packages {
		for _, d := range p.dirs {
			if err := settleDir(t, d, seen); err != nil {
				return fmt.Errorf("/%s: %w", d.name, err)
			}
		}
	}
	return nil
}

func settleDir(t tree, d dirEntry, seen map[uint64]bool) error {
	fd, err := t.open(d.name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if seen[st.Ino] {
		return nil
	}
	seen[st.Ino] = true
	if err := unix.Fchown(fd, d.uid, d.gid); err != nil {
		return fmt.Errorf("owner %d:%d: %w", d.uid, d.gid, err)
	}
	if err := unix.Fchmod(fd, d.mode); err != nil {
		return err
	}
	ns := unix.NsecToTimeval(d.mtime.UnixNano())
	return unix.Futimes(fd, []unix.Timeval{ns, ns})
}

// scriptEnv returns the environment of dpkg and of the scripts that it runs.
func scriptEnv(more ...string) []string {
	return append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "TZ=UTC", "TERM=dumb",
		"DEBIAN_FRONTEND=noninteractive", "DEBCONF_NONINTERACTIVE_SEEN=true",
	}, more...)
}

// configure runs the preinst scripts in the new system, and then dpkg.
func (o *BootstrapOptions) configure(ctx context.Context, t tree, debs []*deb, packages []unpacked) error {
	for _, d := range debs {
		if d.scripts["preinst"] == nil {
			continue
		}
		// dpkg(1) calls the script in this way. The environment is from its
		// section "Internal environment".
		env := scriptEnv(epochEnv(o.Epoch), "DPKG_ADMINDIR=/var/lib/dpkg", "DPKG_ROOT=", "DPKG_MAINTSCRIPT_NAME=preinst",
			"DPKG_MAINTSCRIPT_PACKAGE="+d.name(), "DPKG_MAINTSCRIPT_ARCH="+d.arch(), "DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1", "DPKG_RUNNING_VERSION=1.21.0")
		if err := o.Run(ctx, []string{"/" + infoFile(d, "preinst"), "install"}, env, nil); err != nil {
			return fmt.Errorf("package %s: preinst script: %w", d.name(), err)
		}
	}
	if err := checkDiversions(t, debs, packages); err != nil {
		return err
	}
	ischroot, err := o.ischroot()
	if err != nil {
		return err
	}
	err = o.Run(ctx, []string{"/usr/bin/dpkg", "--force-unsafe-io", "--configure", "-a"}, scriptEnv(epochEnv(o.Epoch)), ischroot)
	for _, file := range ischroot {
		os.Remove(file)
	}
	if err != nil {
		return fmt.Errorf("dpkg --configure -a: %w", err)
	}
	return nil
}

// ischroot returns a program to mount over ischroot(1), by which scripts ask
// whether there is an init to restart. The program always answers that there is
// none, as is true of a tree. In namespaces the original cannot tell, and libc6
// alone then waits a second for telinit(8). The program is a new file of the host,
// because a file of the tree could be a link by now.
func (o *BootstrapOptions) ischroot() (map[string]string, error) {
	const program = "/usr/bin/ischroot"
	if !exists(filepath.Join(o.Tree, program)) {
		return nil, nil
	}
	f, err := os.CreateTemp("", "ischroot-*")
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString("#!/bin/sh\nexit 0\n")
	return map[string]string{program: f.Name()}, errors.Join(err, f.Chmod(0o755), f.Close())
}

// hintDebootstrap is the hint for packages that Bootstrap cannot unpack.
const hintDebootstrap = "`bootstrap: debootstrap` in the manifest selects another engine, which may be able to do it"

// checkDiversions returns an error if a preinst script diverted a file of another
// package. The diversion came too late, because all packages are unpacked before
// the scripts run.
func checkDiversions(t tree, debs []*deb, packages []unpacked) error {
	data, err := t.read("var/lib/dpkg/diversions", 1<<20)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	// Each diversion has three lines: the file, its new name, and the package
	// whose own file is not diverted.
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	for i := 0; i+2 < len(lines); i += 3 {
		for j, p := range packages {
			if debs[j].name() != lines[i+2] && slices.Contains(p.list, lines[i]) {
				return hint.Add(fmt.Errorf("package %s diverts %s of package %s before that is unpacked", lines[i+2], lines[i], debs[j].name()), hintDebootstrap)
			}
		}
	}
	return nil
}
