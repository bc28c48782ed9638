// This file tests kernels that meros compiles, from a fake source and from the
// real one.

package main

import (
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"meros/bench/lab"
)

// fakeKernel is a source with the files and the make targets of a kernel. It
// compiles in a moment, and its configuration program only accepts a few options.
var fakeKernel = map[string]string{
	"Kbuild": "", "init/main.c": "int main(void) { return ANSWER; }\n", "arch/x86/Kconfig": "", ".gitignore": "*.o\n",
	"Kconfig": "config KNOWN\n\tbool \"known\"\nconfig NEEDS\n\tbool \"needs\"\n\tdepends on KNOWN\nconfig VIRTIO_BLK\n\tbool \"disk\"\n",
	"Makefile": `VERSION = 6
tinyconfig defconfig:
	echo "# Linux/x86 6.1.0 Kernel Configuration" > $(O)/.config
olddefconfig:
	grep -x -e CONFIG_KNOWN=y -e CONFIG_VIRTIO_BLK=y $(O)/.config > $(O)/new || true
	if grep -q KNOWN=y $(O)/new; then grep -x CONFIG_NEEDS=y $(O)/.config >> $(O)/new || true; fi
	mv $(O)/new $(O)/.config
savedefconfig:
	cp $(O)/.config $(O)/defconfig
menuconfig:
	read answer; echo "$$answer" >> $(O)/.config; echo "$$TERM"
bzImage:
	mkdir -p $(O)/arch/x86/boot $(O)/include/config
	@echo '  CC      init/main.o'
	$(CC) -DANSWER=42 -c /src/init/main.c -o $(O)/main.o
	cat $(O)/.config $(O)/main.o > $(O)/arch/x86/boot/bzImage
	echo 6.1.0 > $(O)/include/config/kernel.release
	echo map > $(O)/System.map
.PHONY: tinyconfig olddefconfig bzImage
`,
}

// writeKernel puts the fake source into the project.
func writeKernel(t *testing.T, p *lab.Project, dir string) {
	t.Helper()
	for name, text := range fakeKernel {
		p.Write(t, filepath.Join(dir, name), text)
	}
}

// commit commits a directory of the project to its git repository, which it
// creates if necessary. It returns the id of the commit.
func commit(t *testing.T, p *lab.Project, dir string) string {
	t.Helper()
	var last string
	for _, args := range [][]string{{"init", "--quiet", "--initial-branch=master"}, {"config", "core.compression", "0"}, {"config", "pack.window", "0"}, {"add", "--force", "."}, {"commit", "--quiet", "--message=x"}, {"rev-parse", "HEAD"}} {
		cmd := exec.Command("git", append([]string{"-C", p.Path(dir), "-c", "user.name=x", "-c", "user.email=x@example.invalid"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
		last = strings.TrimSpace(string(out))
	}
	return last
}

func kernelManifestOf(kernel string) string {
	return "virtual_machines:\n  m: {suite: bookworm, packages: " + lab.Packages + ", kernel: " + kernel + "}\n"
}

// TestKernelSources builds a kernel from every kind of source, and checks which
// changes cause a rebuild.
func TestKernelSources(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "git")
	p, _ := lab.DownloadedKernel(t, "k")
	writeKernel(t, p, "constellations/k/linux")
	manifest := func(kernel string) { p.Write(t, "constellations/k/manifest.yml", kernelManifestOf(kernel)) }
	image := func() string {
		t.Helper()
		b, err := os.ReadFile(p.Path("data/disks/bzImage"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}

	manifest("{source: linux}")
	first := p.Must(t, "kernel-build", "k")
	if want := []string{"linux source", "linux config", "linux kernel", "bzImage"}; !slices.Equal(without(first.Ran(), "bookworm"), want) {
		t.Errorf("ran %q, want %q", first.Ran(), want)
	}
	if strings.TrimSpace(first.Stdout) != p.Path("data/disks/bzImage") || !strings.HasPrefix(image(), "CONFIG_VIRTIO_BLK=y\n") {
		t.Errorf("kernel-build printed %q and made %.40q", first.Stdout, image())
	}
	if o := p.Must(t, "kernel-build", "k"); len(o.Ran()) != 0 {
		t.Errorf("the second build ran %q", o.Ran())
	}
	t.Run("as a user", func(t *testing.T) { kernelAsUser(t, image()) })
	// The name of the fragment does not matter.
	p.Write(t, "constellations/k/a.config", "CONFIG_KNOWN=y\n")
	manifest("{source: linux, config: a.config}")
	p.Must(t, "kernel-build", "k")
	os.Rename(p.Path("constellations/k/a.config"), p.Path("constellations/k/b.config"))
	manifest("{source: linux, config: b.config}")
	if o := p.Must(t, "kernel-build", "k"); len(o.Ran()) != 0 || !strings.HasPrefix(image(), "CONFIG_KNOWN=y\n") {
		t.Errorf("a renamed fragment: ran %q, made %.40q", o.Ran(), image())
	}
	// A commit and an archive with the same files are the same source.
	id := commit(t, p, "constellations/k/linux")
	manifest("{source: git+" + p.Path("constellations/k/linux") + ", ref: master, config: b.config}")
	if o := p.Must(t, "kernel-build", "k"); !slices.Equal(o.Ran(), []string{"linux master source"}) {
		t.Errorf("from git: ran %q", o.Ran())
	}
	lock, _ := os.ReadFile(p.Path("constellations/k/meros.lock"))
	if !strings.Contains(string(lock), "source git "+p.Path("constellations/k/linux")+" master "+id) {
		t.Errorf("the lock does not pin %s:\n%s", id, lock)
	}
	throughProxy(t, p, manifest)
	archive := p.Path("linux-6.1.tar.xz")
	if out, err := exec.Command("tar", "-C", p.Path("constellations/k"), "--exclude=.git", "-cJf", archive, "linux").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	manifest("{source: file://" + archive + ", config: b.config}")
	if o := p.Must(t, "kernel-build", "k"); !slices.Equal(o.Ran(), []string{"linux-6.1.tar.xz source"}) {
		t.Errorf("from an archive: ran %q", o.Ran())
	}
	leftovers(t, p)

	t.Run("menu", func(t *testing.T) { kernelMenu(t, p, manifest) })
	t.Run("interrupted", func(t *testing.T) { kernelInterrupted(t, p, manifest) })
	t.Run("pins", func(t *testing.T) { kernelPins(t, p, manifest) })
	t.Run("signed", func(t *testing.T) { kernelSigned(t, p, manifest, archive) })
	t.Run("mistakes", func(t *testing.T) { kernelMistakes(t, p, manifest, archive) })
}

// kernelAsUser checks that an ordinary user builds the same kernel as root.
func kernelAsUser(t *testing.T, want string) {
	p, _ := lab.DownloadedKernel(t, "k")
	writeKernel(t, p, "constellations/k/linux")
	p.Write(t, "constellations/k/manifest.yml", kernelManifestOf("{source: linux}"))
	for _, again := range []bool{false, true} { // the second build reuses the objects of the first
		o := lab.Finish(t, p.AsUser(t, lab.UserOptions{}, p.Command(t, "kernel-build", "k")))
		if o.Exit != 0 {
			t.Fatalf("again: %v, exit status %d\n%s", again, o.Exit, o.Stderr)
		}
		if got := readFile(t, p.Path("data/disks/bzImage")); got != want {
			t.Errorf("again: %v, the kernel differs from root's", again)
		}
		removeResults(t, p, "kernel-compile")
	}
	leftovers(t, p)
}

// kernelMenu changes the configuration in the menu, as a person does, and checks
// the fragment that this makes.
func kernelMenu(t *testing.T, p *lab.Project, manifest func(string)) {
	manifest("{source: linux}")
	file := p.Path("constellations/k/menu.config")
	cmd := p.Command(t, "kernel", "config", "k", "--output", file)
	cmd.Stdin, cmd.Env = strings.NewReader("CONFIG_KNOWN=y\n"), append(os.Environ(), "TERM=vt220")
	if o := lab.Finish(t, cmd); o.Exit != 0 || !strings.Contains(o.Stdout, "vt220") {
		t.Fatalf("exit status %d\n%s%s", o.Exit, o.Stdout, o.Stderr)
	}
	if got := readFile(t, file); got != "CONFIG_KNOWN=y\n" {
		t.Errorf("the fragment is %q", got)
	}
	fails(t, p.Run(t, "kernel", "config", "k", "--output", file), 2, "exists already")
	write := func(name, kernel string) {
		p.Write(t, "constellations/k/manifest.yml", kernelManifestOf("{source: linux}")+strings.Replace(strings.TrimPrefix(kernelManifestOf(kernel), "virtual_machines:\n"), "  m:", "  "+name+":", 1))
	}
	write("n", "{source: linux, config: menu.config}")
	if o := p.Must(t, "kernel", "diff", "k/m", "k/n"); o.Stdout != "CONFIG_KNOWN: n -> y\n" {
		t.Errorf("the difference is %q", o.Stdout)
	}
	fails(t, p.Run(t, "kernel-build", "k"), 2, "m and n have different kernels", "meros kernel-build k MACHINE")
}

// kernelInterrupted checks that meros removes the unfinished objects of an
// interrupted compilation and never uses them.
func kernelInterrupted(t *testing.T, p *lab.Project, manifest func(string)) {
	p.Write(t, "constellations/k/slow/late.txt", "another source")
	for name, text := range fakeKernel {
		p.Write(t, filepath.Join("constellations/k/slow", name), strings.Replace(text, "\t$(CC)", "\tsleep 0.3\n\t$(CC)", 1))
	}
	manifest("{source: slow}")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		st, text := interruptAt(t, p, "kernel-compile", sig, "kernel-build", "k")
		if sig == syscall.SIGINT && st.ExitCode() != exitInterrupted {
			t.Errorf("exit status %d after SIGINT\n%s", st.ExitCode(), text)
		}
		settled(t, p.Root)
	}
	if o := p.Must(t, "kernel-build", "k"); !slices.Equal(o.Ran(), []string{"slow kernel", "bzImage"}) {
		t.Errorf("ran %q", o.Ran())
	}
	if half, _ := filepath.Glob(p.Path("data/cache/objects/*/*/new-*")); len(half) != 0 {
		t.Errorf("left behind: %q", half)
	}
	// The next build reuses the objects, so make has nothing to compile.
	removeResults(t, p, "kernel-compile")
	o := p.Must(t, "kernel-build", "k")
	if !strings.Contains(o.Stderr, "using the objects of an earlier kernel from the same source") {
		t.Errorf("the build did not use the objects:\n%s", o.Stderr)
	}
	leftovers(t, p)
}

// throughProxy fetches the repository from a server that only a proxy can reach.
func throughProxy(t *testing.T, p *lab.Project, manifest func(string)) {
	t.Helper()
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"), InheritEnv: []string{"PATH"},
		Env: []string{"GIT_PROJECT_ROOT=" + p.Path("constellations/k"), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != "git.invalid" {
			http.Error(w, "this is a proxy", http.StatusBadRequest)
			return
		}
		asked.Add(1)
		backend.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	manifest("{source: git+http://git.invalid/linux/.git, ref: master, config: b.config}")
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, ".gitconfig"), []byte("[http \"http://git.invalid/\"]\n\tproxy = "+proxy.URL+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, env := range []string{"http_proxy=" + proxy.URL, "HOME=" + home} {
		asked.Store(0)
		removeResults(t, p, "kernel-source")
		cmd := p.Command(t, "kernel-build", "k")
		cmd.Env = append(os.Environ(), env)
		if o := lab.Finish(t, cmd); o.Exit != 0 || !slices.Equal(o.Ran(), []string{"linux master source"}) {
			t.Errorf("%s: exit status %d, ran %q\n%s", env, o.Exit, o.Ran(), o.Stderr)
		}
		if asked.Load() == 0 {
			t.Errorf("%s: the proxy got no request", env)
		}
	}
}

// kernelPins checks that a build uses the pinned commit until `meros update`, even
// if the branch moves.
func kernelPins(t *testing.T, p *lab.Project, manifest func(string)) {
	repository := p.Path("constellations/k/linux")
	kernel := "{source: git+" + repository + ", ref: master}"
	manifest(kernel)
	p.Must(t, "kernel-build", "k")
	p.Write(t, "constellations/k/linux/init/main.c", "int main(void) { return 2 * ANSWER; }\n")
	commit(t, p, "constellations/k/linux")
	if o := p.Must(t, "kernel-build", "k"); len(o.Ran()) != 0 {
		t.Errorf("the build used a commit that is not pinned: ran %q", o.Ran())
	}
	p.Must(t, "update", "k", "--kernel")
	if o := p.Must(t, "kernel-build", "k"); len(o.Ran()) != 4 {
		t.Errorf("after the update: ran %q", o.Ran())
	}
	// Rewriting the branch removes the pinned commit.
	removeResults(t, p, "kernel-source")
	removeResults(t, p, "kernel-config")
	removeResults(t, p, "kernel-compile")
	if err := os.RemoveAll(filepath.Join(repository, ".git")); err != nil {
		t.Fatal(err)
	}
	os.Remove(p.Path("data/disks/bzImage"))
	p.Write(t, "constellations/k/linux/init/main.c", "int main(void) { return 3; }\n")
	commit(t, p, "constellations/k/linux")
	fails(t, p.Run(t, "kernel-build", "k"), 1, "cannot fetch commit", "hint: if the branch was rewritten, `meros update k`")
	p.Must(t, "update", "k", "--kernel")
	p.Must(t, "kernel-build", "k")

	manifest("{source: git+" + repository + ", ref: mastre}")
	fails(t, p.Run(t, "kernel-build", "k"), 1, `has no branch or tag \"mastre\"`, `"hint":"did you mean \"master\"?"`)
}

// kernelSigned checks that meros pins an archive only if the manifest's key has
// signed it. As at kernel.org, the signature is for the uncompressed archive.
func kernelSigned(t *testing.T, p *lab.Project, manifest func(string), archive string) {
	lab.Need(t, "gpg", "gpgv", "xz")
	home, err := os.MkdirTemp("", "mk") // a short path, because gpg-agent puts a socket there, unix(7)
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	defer exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
	}
	gpg := func(args ...string) {
		t.Helper()
		run("gpg", append([]string{"--homedir", home, "--batch", "--quiet", "--yes"}, args...)...)
	}
	for _, who := range []string{"known", "stranger"} {
		gpg("--passphrase", "", "--quick-gen-key", who+"@example.invalid", "ed25519", "sign", "never")
		gpg("--output", p.Path("constellations/k/"+who+".gpg"), "--export", who+"@example.invalid")
	}
	plain := strings.TrimSuffix(archive, ".xz")
	run("xz", "--keep", "--force", "--decompress", archive)
	gpg("--local-user", "known@example.invalid", "--output", plain+".sign", "--detach-sign", plain)
	unpin := func() {
		p.Write(t, "constellations/k/meros.lock", strings.Split(readFile(t, p.Path("constellations/k/meros.lock")), "\nsource ")[0]+"\n")
	}
	manifest("{source: file://" + archive + ", key: stranger.gpg}")
	unpin()
	fails(t, p.Run(t, "kernel-build", "k"), 1, "the signature is not good for a key in")
	manifest("{source: file://" + archive + ", key: known.gpg}")
	if o := p.Must(t, "kernel-build", "k"); !strings.Contains(o.Stderr, "its signature is good") {
		t.Errorf("the messages do not mention the signature:\n%s", o.Stderr)
	}
	unpin()
	for _, f := range []string{plain, plain + ".sign"} {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}

// kernelMistakes checks that the errors for mistakes in a kernel name the text
// that a person has to change.
func kernelMistakes(t *testing.T, p *lab.Project, manifest func(string), archive string) {
	write := func(name, text string) { p.Write(t, "constellations/k/"+name, text) }
	writeKernel(t, p, "constellations/k/linux")
	for _, c := range []struct {
		name, kernel string
		prepare      func()
		exit         int
		words        []string
	}{
		{"unknown option", "{source: linux, config: f.config}", func() { write("f.config", "\nCONFIG_KNOWNN=y\n") }, 1,
			[]string{"f.config:2: this kernel has no option CONFIG_KNOWNN", "hint: did you mean CONFIG_KNOWN instead of CONFIG_KNOWNN?"}},
		{"unmet dependency", "{source: linux, config: f.config}", func() { write("f.config", "CONFIG_NEEDS=y\n") }, 1,
			[]string{"f.config:1: CONFIG_NEEDS=y was asked for, but it is n; it depends on KNOWN (KNOWN=n)"}},
		{"no option at all", "{source: linux, config: f.config}", func() { write("f.config", "KNOWN=y\n") }, 2, []string{"f.config:1:1", "write CONFIG_NAME=y"}},
		{"conflict", "{source: linux, config: [f.config, g.config]}", func() { write("f.config", "CONFIG_KNOWN=y\n"); write("g.config", "\n# CONFIG_KNOWN is not set\n") }, 2,
			[]string{"g.config:2:1: CONFIG_KNOWN is n here, but y in f.config:1"}},
		{"no fragment", "{source: linux, config: h.config}", func() {}, 1, []string{"kernel configuration h.config does not exist"}},
		{"patch does not apply", "{source: linux, patches: [x.patch]}", func() {
			write("x.patch", "--- a/init/main.c\n+++ b/init/main.c\n@@ -1,1 +1,1 @@\n-something else\n+int main(void);\n")
		}, 1, []string{"patch x.patch: hunk 1 does not apply to init/main.c at line 1"}},
		{"not a patch", "{source: linux, patches: [x.patch]}", func() { write("x.patch", "hello\n") }, 1, []string{"patch x.patch", "hint: a patch must be made"}},
		{"compile error", "{source: linux, patches: [x.patch]}", func() {
			write("x.patch", "--- a/init/main.c\n+++ b/init/main.c\n@@ -1,1 +1,2 @@\n-int main(void) { return ANSWER; }\n+int main(void) { return ANSWER }\n+int g(void) { oops; }\n")
		}, 1, []string{"linux kernel: init/main.c:1: expected ", "make: exit status 2"}},
		{"not a kernel source", "{source: empty}", func() { write("empty/README", "x") }, 1, []string{"not the source of a Linux kernel: it has no Kbuild"}},
		{"no directory", "{source: ../nowhere}", func() {}, 1, []string{"kernel source ../nowhere does not exist"}},
		{"wrong digest", "{source: file://" + archive + "?, sha256: " + strings.Repeat("0", 64) + "}", func() {}, 1, []string{"has the digest sha256:", "but the manifest says sha256:000000"}},
		{"truncated", "{source: file://" + archive + ".cut.tar.xz}", func() {
			b, err := os.ReadFile(archive)
			if err == nil {
				err = os.WriteFile(archive+".cut.tar.xz", b[:len(b)-40], 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, 1, []string{"xz", "cut.tar.xz source"}},
		{"no key", "{source: file://" + archive + ", key: k.gpg}", func() {
			write("meros.lock", strings.Split(readFile(t, p.Path("constellations/k/meros.lock")), "\nsource ")[0]+"\n")
		}, 1, []string{"key k.gpg does not exist (looked for "}},
		{"unsigned", "{source: file://" + archive + ", key: k.gpg}", func() {
			write("k.gpg", "")
			write("meros.lock", strings.Split(readFile(t, p.Path("constellations/k/meros.lock")), "\nsource ")[0]+"\n")
		}, 1,
			[]string{"there is no signature to verify"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.prepare()
			manifest(strings.ReplaceAll(c.kernel, "?", ""))
			fails(t, p.Run(t, "kernel-build", "k"), c.exit, c.words...)
			leftovers(t, p)
		})
	}
	for _, c := range []struct {
		args  []string
		words []string
	}{
		{[]string{"kernel-build", "k", "x"}, []string{`no machine \"x\"`}},
		{[]string{"kernel-build", "--source", "a b"}, []string{"--source a b", "not a valid source of a kernel"}},
		{[]string{"kernel-build", "k", "--source", "debian:linux-source-6.1", "--ref", "v6.1"}, []string{"--ref is for git"}},
	} {
		fails(t, p.Run(t, c.args...), 2, c.words...)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// without returns the names that do not begin with word.
func without(names []string, word string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return strings.HasPrefix(n, word) })
}

// helloModule has the source of a module outside the kernel, and a hook that
// compiles it in the image.
var helloModule = map[string]string{
	"includes.chroot/usr/src/hello/Makefile": "obj-m := hello.o\n",
	"includes.chroot/usr/src/hello/hello.c": `#include <linux/module.h>
static int __init hello(void) { pr_info("hello from meros\n"); return 0; }
static void __exit bye(void) {}
module_init(hello);
module_exit(bye);
MODULE_LICENSE("GPL");
`,
	"hooks/0100-hello.chroot": `#!/bin/sh -e
release=$(basename /lib/modules/*)
make -C /lib/modules/$release/build M=/usr/src/hello modules
install -D -m 0644 -t /lib/modules/$release/extra /usr/src/hello/hello.ko
depmod $release
`,
}

// TestRealKernel compiles the real source and boots the kernel with its own
// modules and one of the user. Builds in another directory, and builds that reuse
// objects of another configuration, must make the same bytes.
func TestRealKernel(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-system-x86_64")
	p, compiled := lab.DownloadedKernel(t, "real")
	manifest := func(kernel string) {
		p.Write(t, "constellations/real/manifest.yml", "virtual_machines:\n  m: {suite: bookworm, memory: 512M, cpus: 1, packages: "+lab.ModulePackages+", kernel: {"+kernel+"}}\n")
	}
	manifest(lab.Kernel)
	for name, text := range helloModule {
		p.Write(t, filepath.Join("constellations/real/m", name), text)
	}
	// Share the compiler's cache, which finds objects by content.
	if err := os.MkdirAll(p.Path("data/cache"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", compiled.Path("data/cache/ccache"), p.Path("data/cache/ccache")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p.Must(t, "kernel-build", "real")
	sum := func(p *lab.Project, file string) string {
		t.Helper()
		s, err := fileDigest(p.Path(file))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := sum(p, "data/disks/bzImage")
	compiled.Must(t, "kernel-build", "seed", "--output", compiled.Path("data/disks/bzImage"))
	if other := sum(compiled, "data/disks/bzImage"); other != first {
		t.Errorf("two directories give two kernels: %s and %s", first, other)
	}

	t.Run("boot", func(t *testing.T) {
		p.Must(t, "build", "real", "--boot")
		pin := readFile(t, p.Path("constellations/real/meros.lock"))
		_, pin, _ = strings.Cut(pin, "package linux-source-6.1 ")
		version, _, _ := strings.Cut(pin, "-")
		p.Must(t, "init", "real")
		defer p.Run(t, "shutdown", "real", "--wait=5s")
		o := p.Must(t, "connect", "real", "m", "--", "uname -r; systemctl is-system-running --wait; zgrep DUMMY= /proc/config.gz; modprobe dummy; modprobe hello; dmesg | grep -c 'hello from meros'")
		if want := version + "\nrunning\nCONFIG_DUMMY=m\n1\n"; o.Stdout != want {
			t.Errorf("the machine printed %q, want %q", o.Stdout, want)
		}
	})

	t.Run("same source", func(t *testing.T) { realSources(t, p, compiled, manifest) })

	p.Write(t, "constellations/real/ram.config", "CONFIG_BLK_DEV_RAM=y\n")
	manifest(strings.Replace(lab.Kernel, "modules.config", "[ram.config, modules.config]", 1))
	start := time.Now()
	p.Must(t, "kernel-build", "real")
	t.Logf("compiled with one more option in %.1f s", time.Since(start).Seconds())
	if sum(p, "data/disks/bzImage") == first {
		t.Error("the option did not change the kernel")
	}
	// The seed compiled its kernel without objects.
	removeResults(t, p, "kernel-compile")
	manifest(lab.Kernel)
	start = time.Now()
	if o := p.Must(t, "kernel-build", "real"); !slices.Equal(o.Ran(), []string{"linux-source-6.1 kernel", "bzImage"}) {
		t.Errorf("ran %q", o.Ran())
	}
	t.Logf("compiled without the option in %.1f s", time.Since(start).Seconds())
	if over := sum(p, "data/disks/bzImage"); over != first {
		t.Errorf("the kernel is %s with objects of another configuration and %s without", over, first)
	}
	leftovers(t, p)
	if left := processes(t, p.Root); len(left) > 0 {
		t.Errorf("still running: %s", fmt.Sprint(left))
	}
}

// realSources checks that the real source as a directory and as a commit is the
// same source as the package, so that nothing compiles again.
func realSources(t *testing.T, p, compiled *lab.Project, manifest func(string)) {
	lab.Nightly(t) // TestKernelSources checks the same with a small source
	trees, err := filepath.Glob(compiled.Path("data/cache/trees/*/*/*/init/main.c"))
	if err != nil || len(trees) != 1 {
		t.Fatalf("the unpacked sources are %q, %v", trees, err)
	}
	dir := p.Path("linux")
	if out, err := exec.Command("cp", "-a", filepath.Dir(filepath.Dir(trees[0])), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	manifest(strings.Replace(lab.Kernel, `"debian:linux-source-6.1"`, dir, 1))
	if o := p.Must(t, "kernel-build", "real"); !slices.Equal(o.Ran(), []string{"linux source"}) {
		t.Errorf("from a directory: ran %q", o.Ran())
	}
	commit(t, p, "linux")
	manifest(strings.Replace(lab.Kernel, `"debian:linux-source-6.1"`, "git+file://"+dir, 1))
	if o := p.Must(t, "kernel-build", "real"); !slices.Equal(o.Ran(), []string{"linux master source"}) {
		t.Errorf("from git: ran %q", o.Ran())
	}
}
