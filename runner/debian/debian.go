// Package debian is all that knows about Debian's archives and packages: it
// asks apt which packages make a system ([Resolver]), turns local .deb files
// into a tree ([Bootstrap], [Debootstrap]), adds further ones to it
// ([Install]), makes the result reproducible ([Clean]) and reads a kernel out
// of its package ([ExtractKernel]).
//
// Only a Resolver reaches a network. Everything it learns comes from indexes
// whose signature apt has verified; all else works on files whose digests the
// caller has checked, and still treats what is in them as hostile: nothing
// outside the given directories is written.
package debian

import (
	"context"
	"io"
	"time"
)

// Archive is a place Debian packages come from.
type Archive struct {
	Name       string   // "debian" or "security"
	URL        string   // base URL, without dists/ and without a slash at the end
	Suites     []string // such as bookworm, bookworm-updates
	Components []string // such as main
}

// Package is one version of a binary package in an archive.
type Package struct {
	Name, Version string
	Arch          string // dpkg's name of it, or "all"
	Archive       string // the Name of its Archive
	Filename      string // relative to the archive's URL
	Size          int64  // bytes
	SHA256        string // hexadecimal
}

// Index is a signed index that a resolution was based on.
type Index struct {
	Archive string // the Name of its Archive
	Suite   string
	SHA256  string // of the InRelease file, hexadecimal
}

// Run executes argv inside the tree at hand: chrooted, without a network, as
// its root user, with /proc and /dev there. env is the whole environment;
// files are files of the host to be seen at paths inside, read-only, and
// without a trace in the tree if they are below /run.
type Run func(ctx context.Context, argv, env []string, files map[string]string) error

// BootstrapOptions say what a base system is made of.
type BootstrapOptions struct {
	Tree        string   // an existing, empty directory
	Debs        []string // paths of all the packages, in any order
	Arch, Suite string   // as dpkg and the archive name them
	Epoch       time.Time
	Jobs        int // packages unpacked at once; 0: the number of CPUs
	Log         io.Writer
	Run         Run // in Tree
}

// InstallOptions say what is added to a system.
type InstallOptions struct {
	Root  string   // the merged, writable tree
	Debs  []string // paths, dependencies before their users as [Resolver.Extra] gives them
	Names []string // the packages that were asked for; the others are marked as automatically installed. Empty: none is marked
	Epoch time.Time
	Log   io.Writer
	Run   Run // in Root
}
