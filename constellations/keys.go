package constellations

// Key describes a key of a manifest, for documents and editors. What is read,
// and how, is in load.go; a test holds the two together.
type Key struct {
	Name    string
	Kind    string   // string, integer, boolean, size, kvm, strings, integers, ports; kernel; object:SECTION or list:SECTION
	Default string   // in Markdown
	Help    string   // in Markdown
	Values  []string // all there are; nil if there is no such list
	Top     bool     // it may stand at the top too, for all machines
	Must    bool
}

// KeySection is a mapping of a manifest.
type KeySection struct {
	Name string // of the kinds that refer to it
	Keys []Key
}

// KeySections are the mappings of a manifest below the top.
func KeySections() []KeySection {
	return []KeySection{
		{"machine", machineKeys}, {"hooks", hooksKeys}, {"kernel", kernelKeys}, {"bridge", bridgeKeys},
		{"disk", diskKeys}, {"network", networkKeys}, {"mount", mountKeys}, {"probe", probeKeys},
	}
}

var (
	machineKeys = []Key{
		{Name: "distribution", Kind: "string", Default: "`debian`", Help: "`debian`, `ubuntu` or `alpine`", Values: distributions},
		{Name: "suite", Kind: "string", Default: "`bookworm`, of Ubuntu `noble`", Help: "of Debian or Ubuntu", Top: true},
		{Name: "release", Kind: "string", Default: "`latest-stable`", Help: "of Alpine: `latest-stable`, `edge` or a branch such as `v3.20`", Top: true},
		{Name: "mirror", Kind: "string", Default: "the host's own, or Alpine's", Help: "base URL of the only archive to use: http, https or file (the host's own is for Debian only)", Top: true},
		{Name: "keys", Kind: "strings", Default: "none", Help: "paths of keys that sign what is in the mirror: of Debian and Ubuntu keyrings, binary or armored, in the place of theirs; of Alpine `*.rsa.pub` for packages, which is put into `/etc/apk/keys`, and a keyring `*.gpg` for releases, in the place of Alpine's", Top: true},
		{Name: "base", Kind: "string", Default: "none", Help: "what the machine is made of instead of a base system and packages, as `meros build --use` names it. It is never written to. The path or the URL (https, http, file) of an image: qcow2, raw, vmdk, vdi or vhdx, its root of ext2, ext3, ext4 or, with `hooks: {in: vm}`, btrfs or xfs; a URL's digest is pinned in the lock. Or `oci:PATH` or `oci:PATH:TAG`, an image of containers: a directory in OCI's image layout, or an archive of it or of `docker save`. Or `docker://NAME:TAG`, one of a registry, whose layers are pinned in the lock"},
		{Name: "base_sha256", Kind: "string", Default: "as when locked", Help: "of what the URL of `base` gives"},
		{Name: "setup", Kind: "string", Default: "`openrc` if it is among the packages", Help: "of Alpine, what starts the system: `openrc` or `busybox`", Values: []string{"openrc", "busybox"}},
		{Name: "packages", Kind: "strings", Default: "none", Help: "names, beyond the base system and those given at the top. A machine with a `base` has none of either", Top: true},
		{Name: "bootstrap", Kind: "string", Default: "`meros`", Help: "`meros`, or `debootstrap` to make the base system with it", Values: []string{"meros", "debootstrap"}, Top: true},
		{Name: "hooks", Kind: "object:hooks", Help: "how hooks run, see below: `{network: true}` gives them a network, `{in: vm}` runs them in the booted machine", Top: true},
		{Name: "user", Kind: "string", Default: "`root`", Help: "who logs in; made if the system does not have it, with a key and no password", Top: true},
		{Name: "boot_check", Kind: "boolean", Default: "`false`", Help: "boot the machine once in every build, as `--boot` does", Top: true},
		{Name: "kernel", Kind: "kernel", Default: "`distro`", Help: "`distro`, the distribution's kernel for virtual machines; or the path of a kernel image; or how one is built, see below", Top: true},
		{Name: "arch", Kind: "string", Default: "`x86_64`", Help: "as in `qemu-system-ARCH`: `x86_64`, `aarch64`, `riscv64`, `i386`, `arm` (also `armhf`), `ppc64`, `s390x`. Programs of another architecture than the host's run by qemu-user while the machine is built", Values: arches},
		{Name: "memory", Kind: "size", Default: "`2G`", Help: "`2G`, `512M`, or a number of MiB"},
		{Name: "cpus", Kind: "integer", Default: "2", Help: "how many processors it has"},
		{Name: "kvm", Kind: "kvm", Default: "`auto`", Help: "`auto` or `true` where it works, `on` or fail, `off` or `false`"},
		{Name: "display", Kind: "boolean", Default: "`false`", Help: "a screen, which `meros view` shows"},
		{Name: "disk_size", Kind: "size", Default: "as needed", Help: "of the disk: `4G`, `512M`, or a number of GiB"},
		{Name: "build_free_mb", Kind: "integer", Default: "512", Help: "MiB free in the root file system before files, hooks and what is written while it runs, where there is no `disk_size`. In a `base` whose root is in a logical partition of an MBR, or has an extended one behind it, there is as much as there was, and the stage's log says so"},
		{Name: "format", Kind: "string", Default: "`qcow2`", Help: "what `meros export` makes of it, and `meros build` beside the disk in `data/disks`: `qcow2`, `raw`, `tar`, `oci`, `squashfs` or `erofs`", Values: formats, Top: true},
		{Name: "compress", Kind: "string", Default: "none", Help: "`zstd`: how that is compressed (not `erofs`; the disk that machines boot from never is)", Values: []string{"zstd"}, Top: true},
		{Name: "disks", Kind: "list:disk", Default: "none", Help: "further disks"},
		{Name: "networks", Kind: "list:network", Default: "none", Help: "interfaces"},
		{Name: "ports", Kind: "ports", Default: "none", Help: "ports of the host that lead to this machine: `\"127.0.0.1:8080->80\"`, `\"8080->80\"` or `80`; TCP. Without an address, 127.0.0.1 listens"},
		{Name: "mounts", Kind: "list:mount", Default: "none", Help: "directories of the host that the machine sees while it runs: `{source: ./site, target: /srv/site, read_only: true}`; paths as of a kernel"},
		{Name: "depends_on", Kind: "strings", Default: "none", Help: "machines that are ready before this one starts; `init` of this one starts them, too"},
		{Name: "ready", Kind: "list:probe", Default: "`ssh`", Help: "what makes it ready besides ssh: a list of `{tcp: PORT}` and `{exec: \"COMMAND\"}`"},
		{Name: "qemu_args", Kind: "strings", Default: "none", Help: "further arguments for QEMU: a string that is split as a shell would, or a list of them"},
		{Name: "extra_args", Kind: "strings", Default: "none", Help: "as `qemu_args`, after them"},
	}
	kernelKeys = []Key{
		{Name: "source", Kind: "string", Default: "`git`", Help: "`git`, which is upstream's repository; `git+URL` or a URL that ends in `.git`; the URL of a tar archive; `debian:linux-source-6.1`, a source package; or the path of a directory, with what is not committed there"},
		{Name: "ref", Kind: "string", Default: "`master`", Help: "of git: a branch, a tag or a commit. The lock has the commit"},
		{Name: "sha256", Kind: "string", Default: "as when locked", Help: "of an archive"},
		{Name: "key", Kind: "string", Default: "none", Help: "a keyring for gpgv, whose key must have signed the archive"},
		{Name: "base", Kind: "string", Default: "`tiny`", Help: "what the configuration starts from: `tiny`, `defconfig`, `running` (the host's kernel) or the path of a `.config`"},
		{Name: "config", Kind: "strings", Default: "none", Help: "fragments of a configuration: a path or a list of them"},
		{Name: "patches", Kind: "strings", Default: "none", Help: "applied in this order"},
		{Name: "toolchain", Kind: "string", Default: "`gcc`", Help: "`gcc` or `clang`", Values: []string{"gcc", "clang"}},
		{Name: "debug", Kind: "boolean", Default: "`false`", Help: "keep `vmlinux` with its symbols"},
		{Name: "headers", Kind: "boolean", Default: "`false`", Help: "put into the image what modules are compiled with, where `/lib/modules/RELEASE/build` finds it; hooks then wait for the kernel"},
	}
	bridgeKeys = []Key{
		{Name: "subnet", Kind: "string", Default: "`10.10.10.0/24`", Help: "the bridge itself has the first address"},
		{Name: "policy_type", Kind: "string", Default: "`host-access`", Help: "`host-access` or `isolated`", Values: []string{string(HostAccess), string(Isolated)}},
		{Name: "allowed_ports", Kind: "integers", Default: "22, 80, 443", Help: "of TCP, of the host itself; with `host-access`"},
		{Name: "allowed_ips", Kind: "strings", Default: "none", Help: "addresses and subnets of IPv4 that machines here may reach, whatever the policy"},
		{Name: "allow_icmp", Kind: "boolean", Default: "`true` with `host-access`", Help: "machines may ping the host, and the world if they may reach it"},
		{Name: "peers", Kind: "string", Default: "`open`", Help: "`isolated`: machines on this bridge do not see each other", Values: []string{"open", "isolated"}},
		{Name: "egress", Kind: "strings", Default: "all", Help: "with `host-access`, what of the world machines may reach: `NETWORK`, `NETWORK:PORT`, `:PORT`, each with `/tcp` or `/udp`"},
		{Name: "ingress", Kind: "strings", Default: "none", Help: "who on other bridges may reach machines here, written the same way"},
		{Name: "auto_create", Kind: "boolean", Default: "`true`", Help: "of the ancestor; bridges are always made, and `false` is refused"},
	}
	diskKeys = []Key{
		{Name: "label", Kind: "string", Help: "of the file system too", Must: true},
		{Name: "size_gb", Kind: "size", Default: "2", Help: "`10`, in GiB, or `512M`, `1T`; of one with a `base`, as large as that is, and never less: what is on it stays as large as it was"},
		{Name: "fs_type", Kind: "string", Default: "`ext4`", Help: "`ext4`, `ext3`, `ext2`, `btrfs` (of 109 MiB or more; it is never the same twice), `xfs` (of 300 MiB or more), `swap`, `vfat`", Values: fsTypes},
		{Name: "mount_point", Kind: "string", Default: "none", Help: "where `/etc/fstab` mounts it, by its UUID, or, of one with a `base`, by its place"},
		{Name: "base", Kind: "string", Default: "none", Help: "what it begins with instead of an empty file system: the path or the URL (https, http, file) of an image, qcow2, raw, vmdk, vdi or vhdx, which is never written to; a URL's digest is pinned in the lock"},
		{Name: "partition", Kind: "integer", Default: "none", Help: "of the `base`, the one that is mounted; without it, the disk has none"},
	}
	networkKeys = []Key{
		{Name: "label", Kind: "string", Help: "name of the machine's interface on the side of the bridge, at most 15 characters", Must: true},
		{Name: "bridge", Kind: "string", Help: "name of a bridge", Must: true},
		{Name: "ip_addr", Kind: "string", Default: "by DHCP", Help: "within the bridge's subnet"},
		{Name: "model", Kind: "string", Default: "`virtio`", Help: "`virtio`, `e1000`, `e1000e`, `rtl8139`, ...", Values: models},
		{Name: "mac", Kind: "string", Default: "from the names", Help: "hardware address"},
	}
	hooksKeys = []Key{
		{Name: "in", Kind: "string", Default: "`sandbox`", Help: "`vm` runs the hooks in the machine itself, booted with its kernel, before its init would start: for what a sandbox cannot do, such as mounting file systems. Their result is then impure", Values: []string{HooksInSandbox, HooksInVM}},
		{Name: "network", Kind: "boolean", Default: "`false`", Help: "hooks may use a network; their result is then impure"},
	}
	mountKeys = []Key{
		{Name: "source", Kind: "string", Help: "path on the host: absolute, or relative to the root directory or to the constellation", Must: true},
		{Name: "target", Kind: "string", Help: "path in the machine", Must: true},
		{Name: "read_only", Kind: "boolean", Default: "`false`", Help: "the machine cannot write to it"},
	}
	probeKeys = []Key{
		{Name: "tcp", Kind: "integer", Help: "a port that accepts connections"},
		{Name: "exec", Kind: "string", Help: "a command that ends with status 0"},
	}
)
