// Package debian knows the archives and packages of Debian and Ubuntu. [Resolver]
// asks apt which packages make a system. [Bootstrap] and [Debootstrap] turn .deb
// files into a tree, and [Install] adds packages to it. [Clean] makes the result
// reproducible. [ExtractKernel] reads a kernel from its package.
//
// Only a Resolver uses a network. It believes only indexes whose signature apt
// has verified. Everything else works on files whose digests the caller has
// checked. It still treats their content as hostile, and writes nothing outside
// the given directories.
package debian

import (
	"context"
	"io"
	"time"
)

// Archive is a server or directory with packages.
type Archive struct {
	Name       string   // "debian" or "security"
	URL        string   // base URL, without dists/ and without a slash at the end
	Suites     []string // such as bookworm, bookworm-updates
	Components []string // such as main
}

// Package is one version of a binary package in an archive.
type Package struct {
	Name, Version string
	Arch          string // dpkg's name, or "all"
	Archive       string // the Name of its Archive
	Filename      string // relative to the archive's URL
	Size          int64  // bytes
	SHA256        string // hexadecimal
}

// Index is a signed index that a [Resolver] has read.
type Index struct {
	Archive string // the Name of its Archive
	Suite   string
	SHA256  string // of the InRelease file, hexadecimal
}

// Run executes argv as root, with the tree as its root directory. The program has
// /proc and /dev, but no network. env is the whole environment. files maps paths
// inside the tree to files of the host, which Run mounts read-only. Below /run
// these mounts leave no trace in the tree.
type Run func(ctx context.Context, argv, env []string, files map[string]string) error

// BootstrapOptions describe a base system.
type BootstrapOptions struct {
	Tree        string   // an existing, empty directory
	Debs        []string // paths of all packages, in any order
	Arch, Suite string   // dpkg's and the archive's names
	Epoch       time.Time
	Jobs        int // how many packages to unpack at the same time; 0 is the number of CPUs
	Log         io.Writer
	Run         Run // in Tree
}

// InstallOptions describe what [Install] adds to a system.
type InstallOptions struct {
	Root  string   // the merged, writable tree
	Debs  []string // paths, dependencies before their users as [Resolver.Extra] returns them
	Names []string // the requested packages; Install marks the others as automatically installed, unless Names is empty
	Epoch time.Time
	Log   io.Writer
	Run   Run // in Root
}
