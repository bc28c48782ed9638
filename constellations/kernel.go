// This file reads the kernel of a machine from a manifest. It does not check whether
// its source exists.

package constellations

import (
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// KernelKind is the origin of a machine's kernel.
type KernelKind string

const (
	KernelDistro  KernelKind = "distro"  // the distribution's, for virtual machines
	KernelImage   KernelKind = "image"   // a file
	KernelGit     KernelKind = "git"     // built from a commit
	KernelTarball KernelKind = "tarball" // built from an archive
	KernelDir     KernelKind = "dir"     // built from a directory of the host
	KernelDebian  KernelKind = "debian"  // built from a source package
)

// Kernel is the kernel that a machine boots. Paths are as in the manifest:
// relative to the root directory or to the constellation.
type Kernel struct {
	Kind     KernelKind
	Location string // path of the image or directory, URL, or name of the package

	// The remaining fields are for kernels that are built.
	Ref       string   // of git: a branch, a tag or a commit
	SHA256    string   // of the tarball; "" accepts the one in the lock
	Key       string   // path of a keyring whose key signed the tarball, or ""
	Base      string   // "tiny", "defconfig", "running", or the path of a .config
	Fragments []string // paths, in the manifest's order
	Patches   []string // paths, in the order in which they are applied
	Toolchain string   // "gcc" or "clang"
	Debug     bool     // keep vmlinux with its symbols
	Headers   bool     // the image has the files that compile modules
	Line      int      // in the manifest
}

// Built reports whether the kernel is built from source.
func (k Kernel) Built() bool { return k.Kind != KernelDistro && k.Kind != KernelImage }

// UpstreamKernel is the default repository of a kernel, and UpstreamRef its
// default branch.
const (
	UpstreamKernel = "https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git"
	UpstreamRef    = "master"
)

var (
	gitRef = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/+-]{0,200}$`) // git-check-ref-format(1), and stricter
)

// kernel reads a path, "distro", or a mapping that says how to build a kernel.
// Manifests of the Python version may have null, which means the default.
func (l *loader) kernel(n ast.Node) Kernel {
	switch l.resolve(n).(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return l.builtKernel(n)
	}
	switch s := l.text(n); s {
	case "", "None", string(KernelDistro):
		return Kernel{Kind: KernelDistro}
	default:
		return Kernel{Kind: KernelImage, Location: s, Line: placeOf(n).line}
	}
}

func (l *loader) builtKernel(n ast.Node) Kernel {
	k := Kernel{Kind: KernelGit, Location: UpstreamKernel, Base: "tiny", Toolchain: "gcc", Line: placeOf(n).line}
	places := make(map[string]ast.Node)
	note := func(key string, read func(ast.Node)) func(ast.Node) {
		return func(n ast.Node) { places[key] = n; read(n) }
	}
	l.fields(n, "a kernel", map[string]func(ast.Node){
		"source":    func(n ast.Node) { k.Kind, k.Location = l.kernelSource(n) },
		"ref":       note("ref", func(n ast.Node) { k.Ref = l.pattern(n, "git ref", gitRef) }),
		"sha256":    note("sha256", func(n ast.Node) { k.SHA256 = l.pattern(n, "sha256 digest", hexDigest) }),
		"key":       note("key", func(n ast.Node) { k.Key = l.text(n) }),
		"base":      func(n ast.Node) { k.Base = l.text(n) },
		"config":    func(n ast.Node) { k.Fragments = l.texts(n) },
		"patches":   func(n ast.Node) { k.Patches = l.texts(n) },
		"toolchain": func(n ast.Node) { k.Toolchain = l.word(n, "toolchain", "gcc", "clang") },
		"debug":     func(n ast.Node) { k.Debug = l.boolean(n) },
		"headers":   func(n ast.Node) { k.Headers = l.boolean(n) },
	})
	for key, kind := range map[string]KernelKind{"ref": KernelGit, "sha256": KernelTarball, "key": KernelTarball} {
		if n := places[key]; n != nil && k.Kind != kind {
			l.addAt(placeOf(n), "", "%q is a key for a source of kind %s, but this source is of kind %s", key, kind, k.Kind)
		}
	}
	if k.Kind == KernelGit && k.Ref == "" {
		k.Ref = UpstreamRef
	}
	if k.Base == "" {
		k.Base = "tiny"
	}
	return k
}

// kernelSource reads the value of source.
func (l *loader) kernelSource(n ast.Node) (KernelKind, string) {
	kind, location, problem := ParseKernelSource(l.text(n))
	if problem != "" {
		l.addAt(placeOf(n), "write git, a URL that ends in .git or .tar.xz, debian:linux-source-6.1, or the path of a directory", "%s", problem)
	}
	return kind, location
}

// ParseKernelSource parses the source of a kernel. "git" is the upstream
// repository, "git+URL" or a URL that ends in .git is another one. The other
// sources are the URL of a tar archive, "debian:PACKAGE", and the path of a
// directory. problem is the mistake, or empty.
func ParseKernelSource(s string) (kind KernelKind, location, problem string) {
	plain, isGit := strings.CutPrefix(s, "git+")
	u, err := url.Parse(plain)
	remote := err == nil && u.Scheme != "" && (u.Host != "" || u.Scheme == "file")
	name, isDebian := strings.CutPrefix(s, "debian:")
	switch {
	case s == "" || strings.ContainsAny(s, " \t\n\x00"):
		return KernelDir, s, "not a valid source of a kernel"
	case s == "git":
		return KernelGit, UpstreamKernel, ""
	case isDebian && packageName.MatchString(name):
		return KernelDebian, name, ""
	case isDebian:
		return KernelDebian, name, "not a valid name of a package"
	case isGit || remote && strings.HasSuffix(u.Path, ".git") || u != nil && u.Scheme == "git":
		if strings.HasPrefix(plain, "-") {
			return KernelGit, plain, "not a valid URL of a repository"
		}
		return KernelGit, plain, ""
	case remote && TarCompression(path.Base(u.Path)) != "":
		return KernelTarball, s, ""
	case remote:
		return KernelTarball, s, "the URL ends neither in .git nor in .tar, .tar.xz, .tar.gz or .tar.zst"
	}
	return KernelDir, s, ""
}

// TarCompression returns the compression of the tar archive with that name:
// "none", "xz", "gz", "zst", "bz2", or "" if it is not a tar archive.
func TarCompression(name string) string {
	for suffix, c := range map[string]string{".tar": "none", ".tar.xz": "xz", ".tar.gz": "gz", ".tgz": "gz", ".tar.zst": "zst", ".tar.bz2": "bz2"} {
		if strings.HasSuffix(name, suffix) {
			return c
		}
	}
	return ""
}

// texts reads a list of strings.
func (l *loader) texts(n ast.Node) []string {
	var all []string
	for _, e := range l.sequence(n) {
		if s := l.text(e); s != "" {
			all = append(all, s)
		}
	}
	return all
}
