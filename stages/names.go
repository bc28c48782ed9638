// This file names the parameters, hints, inputs and outputs that several stages
// have. Those of one stage are in its file. A plan and the step that carries it out
// meet by these names. They are part of action keys, so their values stay.

package stages

// Parameters, which are in the key.
const (
	ParamArch      = "arch"      // architecture of the machine, QEMU's name
	ParamCPUs      = "cpus"      // of the machine
	ParamEpoch     = "epoch"     // time that stands for now, seconds since 1970
	ParamForeign   = "foreign"   // architecture of programs that the host cannot run itself
	ParamFormat    = "format"    // of a package or an exported file
	ParamFreeMiB   = "free-mib"  // free space in the image, MiB
	ParamLabel     = "label"     // of the file system
	ParamMemory    = "memory"    // of the machine, bytes
	ParamMirror    = "mirror"    // base URL of the packages; "" is the default
	ParamNames     = "names"     // packages that the manifest names, separated by spaces
	ParamNetwork   = "network"   // runner.Network of hooks; "" is none
	ParamSize      = "size"      // of the image, bytes
	ParamTool      = "tool-"     // begins the name of the identity of a host program
	ParamToolchain = "toolchain" // "gcc" or "clang"
)

// Hints, which are in no key.
const (
	HintKVM     = "kvm"     // whether the machine may use KVM, a constellations.KVM
	HintShell   = "shell"   // "yes" opens a shell where the step fails
	HintTimeout = "timeout" // longest that a hook may run; "" does not limit it
)

// Inputs, of other nodes or of the host.
const (
	InBase   = "base"   // image below another one
	InConfig = "config" // the kernel's configuration
	InDeb    = "deb"    // package
	InImage  = "image"
	InInitrd = "initrd"
	InKernel = "kernel"
	InLayer  = "layer"
	InLayout = "layout" // where the root file system of a foreign image is
	InLower  = "lower"  // layers below, unpacked
	InTools  = "tools"  // layers of the system that compiles kernels, unpacked
	InSource = "source" // the kernel's source, unpacked
)

// Outputs.
const (
	OutAccounts    = "accounts"    // the layer's users and groups
	OutConfig      = "config"      // the kernel's configuration
	OutConsole     = "console"     // the machine's console
	OutDirectories = "directories" // modes and owners of the directories
	OutFile        = "file"
	OutImage       = "image" // qcow2
	OutInitrd      = "initrd"
	OutKernel      = "kernel"
	OutLayer       = "layer"
	OutLayout      = "layout"  // JSON of an image.Layout
	OutModules     = "modules" // layer
	OutRelease     = "release" // the kernel's version
	OutSource      = "source"  // layer
)
