// This file describes every key of a manifest for docs/manifest.md and for
// editors. It does not read manifests: load.go does, and a test compares both.

package constellations

// Key describes one key of a manifest.
type Key struct {
	Name    string
	Kind    string   // string, integer, boolean, size, kvm, strings, integers, ports; kernel; object:SECTION or list:SECTION
	Default string   // in Markdown, after "Default: "
	Help    string   // whole sentences in Markdown
	Values  []string // all accepted values; nil if they cannot be listed
	Top     bool     // the key may also stand at the top, as the default of all machines
	Must    bool     // the key is required
}

// KeySection describes one kind of mapping in a manifest.
type KeySection struct {
	Name string // as Kind refers to it
	Keys []Key
}

// KeySections returns all kinds of mappings below the top of a manifest.
func KeySections() []KeySection {
	return []KeySection{
		{"machine", machineKeys}, {"hooks", hooksKeys}, {"kernel", kernelKeys}, {"bridge", bridgeKeys},
		{"disk", diskKeys}, {"network", networkKeys}, {"mount", mountKeys}, {"probe", probeKeys},
	}
}

var (
	machineKeys = []Key{
		{Name: "distribution", Kind: "string", Default: "`debian`", Values: distributions,
			Help: "The distribution: `debian`, `ubuntu` or `alpine`."},
		{Name: "suite", Kind: "string", Default: "`bookworm`, for Ubuntu `noble`", Top: true,
			Help: "The suite of Debian or Ubuntu."},
		{Name: "release", Kind: "string", Default: "`latest-stable`", Top: true,
			Help: "The release of Alpine: `latest-stable`, `edge` or a branch such as `v3.20`."},
		{Name: "mirror", Kind: "string", Default: "the host's own for Debian, the distribution's for the others", Top: true,
			Help: "The base URL (http, https or file) of the package archive. No other archive is used then."},
		{Name: "keys", Kind: "strings", Default: "none", Top: true,
			Help: "Paths of the public keys that sign the mirror. " +
				"For Debian and Ubuntu these are keyrings, binary or armored, and they replace the distribution's own. " +
				"For Alpine a `*.rsa.pub` signs packages and is copied to `/etc/apk/keys`; a keyring `*.gpg` signs releases and replaces Alpine's."},
		{Name: "base", Kind: "string", Default: "none",
			Help: "An existing image to start from, instead of a base system and packages. meros never writes to it. " +
				"It is one of: the path or URL (https, http, file) of a qcow2, raw, vmdk, vdi or vhdx image; " +
				"`oci:PATH` or `oci:PATH:TAG`, a container image in a directory or archive; " +
				"`docker://NAME:TAG`, a container image in a registry. " +
				"The lock pins the digest of a URL and every layer from a registry."},
		{Name: "base_sha256", Kind: "string", Default: "the digest at the time of locking",
			Help: "The SHA-256 that the file at the URL of `base` must have."},
		{Name: "setup", Kind: "string", Default: "`openrc` if it is installed, else `busybox`", Values: []string{"openrc", "busybox"},
			Help: "The init system of an Alpine machine: `openrc` or `busybox`."},
		{Name: "packages", Kind: "strings", Default: "none", Top: true,
			Help: "Packages to install on top of the base system. Those at the top and those of the machine are added up. A machine with a `base` has neither."},
		{Name: "bootstrap", Kind: "string", Default: "`meros`", Values: []string{"meros", "debootstrap"}, Top: true,
			Help: "The program that makes a Debian or Ubuntu base system: `meros` or `debootstrap`."},
		{Name: "hooks", Kind: "object:hooks", Top: true,
			Help: "How the machine's hooks run. `{network: true}` gives them a network, `{in: vm}` runs them in the booted machine."},
		{Name: "user", Kind: "string", Default: "`root`", Top: true,
			Help: "The user who logs in over ssh. If the system lacks that user, meros adds it with a key and without a password."},
		{Name: "boot_check", Kind: "boolean", Default: "`false`", Top: true,
			Help: "Boot the image once in every build, as `meros build --boot` does. The result is cached."},
		{Name: "kernel", Kind: "kernel", Default: "`distro`", Top: true,
			Help: "The kernel: `distro` for the distribution's kernel for virtual machines, the path of a kernel image, or a mapping that describes how to compile one."},
		{Name: "arch", Kind: "string", Default: "`x86_64`", Values: arches,
			Help: "The architecture as in `qemu-system-ARCH`: `x86_64`, `aarch64`, `riscv64`, `i386`, `arm` (or `armhf`), `ppc64`, `s390x`. " +
				"During a build, qemu-user runs programs of an architecture that the host cannot run."},
		{Name: "memory", Kind: "size", Default: "`2G`",
			Help: "The memory: `2G`, `512M`, or a plain number of MiB."},
		{Name: "cpus", Kind: "integer", Default: "2",
			Help: "The number of processors."},
		{Name: "kvm", Kind: "kvm", Default: "`auto`",
			Help: "Hardware virtualization: `auto` (or `true`) uses it where it works, `on` fails without it, `off` (or `false`) always emulates."},
		{Name: "display", Kind: "boolean", Default: "`false`",
			Help: "Give the machine a screen, which `meros view` shows."},
		{Name: "disk_size", Kind: "size", Default: "as large as needed",
			Help: "The size of the first disk: `4G`, `512M`, or a plain number of GiB."},
		{Name: "build_free_mb", Kind: "integer", Default: "512",
			Help: "The free space of the root file system in MiB, for files, hooks and the running machine. It counts only without `disk_size`. " +
				"A `base` cannot grow if its root is in a logical partition of an MBR, or if an extended partition follows it. The stage's log then says so."},
		{Name: "format", Kind: "string", Default: "`qcow2`", Values: formats, Top: true,
			Help: "The form that `meros export` writes, and `meros build` beside the disk in `data/disks`: `qcow2`, `raw`, `tar`, `oci`, `squashfs` or `erofs`."},
		{Name: "compress", Kind: "string", Default: "none", Values: []string{"zstd"}, Top: true,
			Help: "The compression of that form: `zstd`. It is not available for `erofs`. The disk that machines boot from is never compressed."},
		{Name: "disks", Kind: "list:disk", Default: "none",
			Help: "Further disks."},
		{Name: "networks", Kind: "list:network", Default: "none",
			Help: "Network interfaces, each on a bridge."},
		{Name: "ports", Kind: "ports", Default: "none",
			Help: "TCP ports of the host that lead to this machine: `\"127.0.0.1:8080->80\"`, `\"8080->80\"` or `80`. Without an address the host listens on 127.0.0.1 only."},
		{Name: "mounts", Kind: "list:mount", Default: "none",
			Help: "Directories of the host that the running machine sees."},
		{Name: "depends_on", Kind: "strings", Default: "none",
			Help: "Machines that must be ready before this one starts. `meros init` of this machine starts them as well."},
		{Name: "ready", Kind: "list:probe", Default: "`ssh`",
			Help: "Further conditions, besides ssh, for the machine to count as ready: a list of `{tcp: PORT}` and `{exec: \"COMMAND\"}`."},
		{Name: "qemu_args", Kind: "strings", Default: "none",
			Help: "Further arguments for QEMU: a string, split as a shell would split it, or a list of strings."},
		{Name: "extra_args", Kind: "strings", Default: "none",
			Help: "The same as `qemu_args`. These arguments follow those of `qemu_args`."},
	}
	hooksKeys = []Key{
		{Name: "in", Kind: "string", Default: "`sandbox`", Values: []string{HooksInSandbox, HooksInVM},
			Help: "Where the hooks run: `sandbox`, or `vm` for the machine itself, booted with its kernel before its init would start. " +
				"Use `vm` for work that a sandbox cannot do, such as mounting file systems. The result is impure."},
		{Name: "network", Kind: "boolean", Default: "`false`",
			Help: "Give the hooks a network of their own. The result is impure."},
	}
	kernelKeys = []Key{
		{Name: "source", Kind: "string", Default: "`git`",
			Help: "The source: `git` for the upstream repository; `git+URL` or a URL that ends in `.git` for another one; the URL of a tar archive; " +
				"`debian:PACKAGE` for a source package; or the path of a directory, whose uncommitted changes count."},
		{Name: "ref", Kind: "string", Default: "`master`",
			Help: "The branch, tag or commit of a git source. The lock pins the commit."},
		{Name: "sha256", Kind: "string", Default: "the digest at the time of locking",
			Help: "The SHA-256 that a tar archive must have."},
		{Name: "key", Kind: "string", Default: "none",
			Help: "A keyring for gpgv. One of its keys must have signed the tar archive."},
		{Name: "base", Kind: "string", Default: "`tiny`",
			Help: "The configuration to start from: `tiny`, `defconfig`, `running` (the host's kernel) or the path of a `.config`."},
		{Name: "config", Kind: "strings", Default: "none",
			Help: "Configuration fragments: a path, or a list of paths."},
		{Name: "patches", Kind: "strings", Default: "none",
			Help: "Patches, applied in this order."},
		{Name: "toolchain", Kind: "string", Default: "`gcc`", Values: []string{"gcc", "clang"},
			Help: "The compiler: `gcc` or `clang`."},
		{Name: "debug", Kind: "boolean", Default: "`false`",
			Help: "Keep `vmlinux` with its symbols."},
		{Name: "headers", Kind: "boolean", Default: "`false`",
			Help: "Install the files that compile modules, where `/lib/modules/RELEASE/build` points. The hooks then wait for the kernel."},
	}
	bridgeKeys = []Key{
		{Name: "subnet", Kind: "string", Default: "`10.10.10.0/24`",
			Help: "The IPv4 subnet. The bridge itself has its first address."},
		{Name: "policy_type", Kind: "string", Default: "`host-access`", Values: []string{string(HostAccess), string(Isolated)},
			Help: "What machines here may reach: `host-access` allows the world and some ports of the host, `isolated` only the bridge itself."},
		{Name: "allowed_ports", Kind: "integers", Default: "22, 80, 443",
			Help: "TCP ports of the host that machines on a `host-access` bridge may reach."},
		{Name: "allowed_ips", Kind: "strings", Default: "none",
			Help: "IPv4 addresses and subnets that machines here may reach, whatever the policy."},
		{Name: "allow_icmp", Kind: "boolean", Default: "`true` with `host-access`, else `false`",
			Help: "Whether machines may ping the host, and the world if they may reach it."},
		{Name: "peers", Kind: "string", Default: "`open`", Values: []string{"open", "isolated"},
			Help: "Whether machines on this bridge reach each other: `open` or `isolated`."},
		{Name: "egress", Kind: "strings", Default: "everything",
			Help: "The part of the world that machines on a `host-access` bridge may reach: `NETWORK`, `NETWORK:PORT` or `:PORT`, each optionally with `/tcp` or `/udp`."},
		{Name: "ingress", Kind: "strings", Default: "none",
			Help: "Machines on other bridges that may reach machines here, written as for `egress`."},
		{Name: "auto_create", Kind: "boolean", Default: "`true`",
			Help: "Kept for old manifests. Only `true` is accepted."},
	}
	diskKeys = []Key{
		{Name: "label", Kind: "string", Must: true,
			Help: "The name of the disk and of its file system, at most 16 characters."},
		{Name: "size_gb", Kind: "size", Default: "2, or the size of the `base`",
			Help: "The size: a plain number of GiB, or `512M`, `1T`. A disk with a `base` is never smaller than the base, and a file system on it keeps its size."},
		{Name: "fs_type", Kind: "string", Default: "`ext4`", Values: fsTypes,
			Help: "The file system: `ext4`, `ext3`, `ext2`, `btrfs` (109 MiB or more; not reproducible), `xfs` (300 MiB or more), `swap` or `vfat`."},
		{Name: "mount_point", Kind: "string", Default: "none",
			Help: "Where `/etc/fstab` mounts it. The entry names the UUID; for a disk with a `base` it names the device."},
		{Name: "base", Kind: "string", Default: "none",
			Help: "An existing image to start from, instead of an empty file system: the path or URL (https, http, file) of a qcow2, raw, vmdk, vdi or vhdx image. " +
				"meros never writes to it. The lock pins the digest of a URL."},
		{Name: "partition", Kind: "integer", Default: "none, the file system fills the disk",
			Help: "The number of the partition of the `base` to mount."},
	}
	networkKeys = []Key{
		{Name: "label", Kind: "string", Must: true,
			Help: "The name of the interface on the bridge's side, at most 15 characters."},
		{Name: "bridge", Kind: "string", Must: true,
			Help: "The name of a bridge."},
		{Name: "ip_addr", Kind: "string", Default: "by DHCP",
			Help: "A fixed address in the bridge's subnet."},
		{Name: "model", Kind: "string", Default: "`virtio`", Values: models,
			Help: "The network card: `virtio`, `virtio-net-pci`, `virtio-net-device`, `e1000`, `e1000e`, `rtl8139` or `vmxnet3`."},
		{Name: "mac", Kind: "string", Default: "derived from the names",
			Help: "The hardware address."},
	}
	mountKeys = []Key{
		{Name: "source", Kind: "string", Must: true,
			Help: "The path on the host: absolute, or relative to the root directory or to the constellation."},
		{Name: "target", Kind: "string", Must: true,
			Help: "The absolute path in the machine."},
		{Name: "read_only", Kind: "boolean", Default: "`false`",
			Help: "Whether the machine may only read it."},
	}
	probeKeys = []Key{
		{Name: "tcp", Kind: "integer",
			Help: "A port of the machine that must accept connections."},
		{Name: "exec", Kind: "string",
			Help: "A shell command in the machine that must end with status 0."},
	}
)
