// This file gives tests packages of the real archives, and a chroot to run them.

package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"meros/bench/lab"
)

// extraNames lists the packages that tests install in addition to a base system.
var extraNames = []string{"openssh-server", "iputils-ping"}

// resolved has the answers of a resolver. Tests cache them between runs.
type resolved struct {
	Archives            []Archive
	Date                time.Time
	Indexes             []Index
	Base, Extra, Kernel []Package
}

func (r resolved) all() []Package {
	return append(append(append([]Package{}, r.Base...), r.Extra...), r.Kernel...)
}

var resolveOnce sync.Map // from suite to func() (resolved, error)

func cacheDir(t testing.TB) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	dir = filepath.Join(dir, "meros-test", "debian")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// resolve asks the archives that the host uses, unless the cached answers are
// younger than twelve hours.
func resolve(t testing.TB, suite string) resolved {
	t.Helper()
	lab.Need(t, "apt-get", "xz")
	dir := cacheDir(t)
	f, _ := resolveOnce.LoadOrStore(suite, sync.OnceValues(func() (resolved, error) { return resolveCached(dir, suite) }))
	r, err := f.(func() (resolved, error))()
	if err != nil {
		lab.Skip(t, "needs an archive of Debian: %v", err)
	}
	return r
}

func resolveCached(dir, suite string) (r resolved, err error) {
	file := filepath.Join(dir, suite+"-amd64.json")
	if fi, err := os.Stat(file); err == nil && time.Since(fi.ModTime()) < 12*time.Hour {
		data, err := os.ReadFile(file)
		if err == nil && json.Unmarshal(data, &r) == nil && r.complete(dir) {
			return r, nil
		}
	}
	ctx := context.Background()
	if r.Archives, err = HostArchives("/", suite, ""); err != nil {
		return r, err
	}
	work, err := os.MkdirTemp("", "meros-resolver-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o755); err != nil {
		return r, err
	}
	var log bytes.Buffer
	rs, err := OpenResolver(ctx, ResolverOptions{Dir: filepath.Join(work, "apt"), Archives: r.Archives, Suite: suite, Arch: "amd64", Log: &log})
	if err != nil {
		return r, err
	}
	r.Date, r.Indexes = rs.Date(), rs.Indexes()
	if r.Base, err = rs.Base(ctx); err != nil {
		return r, err
	}
	if r.Extra, err = rs.Extra(ctx, extraNames); err != nil {
		return r, err
	}
	if r.Kernel, err = rs.Kernel(ctx); err != nil {
		return r, err
	}
	for _, p := range r.all() {
		if err := fetchDeb(ctx, rs, dir, p); err != nil {
			return r, err
		}
	}
	data, err := json.Marshal(r)
	if err != nil {
		return r, err
	}
	return r, os.WriteFile(file, data, 0o644)
}

// fetchDeb makes apt fetch a package into dir.
func fetchDeb(ctx context.Context, rs *Resolver, dir string, p Package) error {
	to := filepath.Join(dir, p.SHA256+".deb")
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	if _, err := rs.apt(ctx, "apt-get", "download", p.Name+":"+rs.opts.Arch+"="+p.Version); err != nil {
		return err
	}
	from := filepath.Join(rs.opts.Dir, p.Name+"_"+strings.ReplaceAll(p.Version, ":", "%3a")+"_"+p.Arch+".deb")
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	if hex.EncodeToString(sum[:]) != p.SHA256 || int64(len(data)) != p.Size {
		return fmt.Errorf("%s does not match the resolver's answer: %d bytes, sha256 %x", p.Name, len(data), sum)
	}
	tmp := fmt.Sprintf("%s.%d", to, os.Getpid())
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, to)
}

func (r resolved) complete(dir string) bool {
	for _, p := range r.all() {
		if fi, err := os.Stat(filepath.Join(dir, p.SHA256+".deb")); err != nil || fi.Size() != p.Size {
			return false
		}
	}
	return len(r.Base) > 0
}

func debPaths(t testing.TB, packages []Package) []string {
	t.Helper()
	var paths []string
	for _, p := range packages {
		paths = append(paths, filepath.Join(cacheDir(t), p.SHA256+".deb"))
	}
	return paths
}

// chrootRun returns a Run for tests: a chroot in new mount, pid and network
// namespaces, with /proc and a /dev of six nodes.
func chrootRun(tree string, out io.Writer) Run {
	return func(ctx context.Context, argv, env []string, files map[string]string) error {
		var mounts strings.Builder
		for inside, host := range files {
			// The targets below /run are on a tmpfs.
			if strings.HasPrefix(inside, "/run/") {
				fmt.Fprintf(&mounts, "[ -e '%[1]s/run/.tmpfs' ] || { mount -t tmpfs run '%[1]s/run'; : >'%[1]s/run/.tmpfs'; }\nmkdir -p '%[1]s%[2]s'; : >'%[1]s%[3]s'\n", tree, filepath.Dir(inside), inside)
			}
			fmt.Fprintf(&mounts, "mount --bind '%s' '%s%s'\n", host, tree, inside)
		}
		script := `set -e
mount --make-rprivate /
mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=755 dev "$1/dev"
for n in null zero full random urandom tty; do : >"$1/dev/$n"; mount --bind "/dev/$n" "$1/dev/$n"; done
ln -s /proc/self/fd "$1/dev/fd"; mkdir "$1/dev/shm"
` + mounts.String() + `root=$1; shift
exec chroot "$root" "$@"`
		for _, d := range []string{"proc", "dev"} {
			if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
				return err
			}
		}
		cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", script, "sh", tree}, argv...)...)
		cmd.Env = env
		cmd.Stdout, cmd.Stderr = out, out
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
			Pdeathsig:  syscall.SIGKILL,
		}
		return cmd.Run()
	}
}
