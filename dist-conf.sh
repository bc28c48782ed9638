#!/bin/sh
# Installs the programs that meros needs and this host lacks, then runs the
# given command. It installs nothing where nothing is missing.
#
#	./dist-conf.sh [COMMAND [ARGUMENT...]]
set -eu

# program or file, Debian package, Alpine package
needs='
mke2fs            e2fsprogs          e2fsprogs
debugfs           e2fsprogs          e2fsprogs-extra
xz                xz-utils           xz
qemu-img          qemu-utils         qemu-img
qemu-storage-daemon qemu-system-common qemu-storage-daemon
qemu-system-x86_64 qemu-system-x86   qemu-system-x86_64
newuidmap         uidmap             shadow-uidmap
debootstrap       debootstrap        debootstrap
ssh               openssh-client     openssh-client
pasta             passt              passt
dnsmasq           dnsmasq-base       dnsmasq
gpgv              gpgv               gnupg
sfdisk            fdisk              sfdisk
fuse2fs           fuse2fs            fuse2fs
'
# Programs that only the tests use.
if [ "${CI:-}" = true ] || [ "${1:-} ${2:-}" = 'go test' ]; then
	needs="$needs
cpio              cpio               cpio
busybox           busybox-static     busybox
dpkg-deb          dpkg               dpkg
gpg               gnupg              gnupg
git               git                git
setpriv           util-linux         setpriv
unshare           util-linux         unshare
nft               nftables           nftables
ip                iproute2           iproute2
zstd              zstd               zstd
mkfs.btrfs        btrfs-progs        btrfs-progs
mkfs.xfs          xfsprogs           xfsprogs
mkfs.vfat         dosfstools         dosfstools
"
fi
# Programs that only the benchmarks and the long and nightly tier of the tests
# use: peers to compare with, shells, a browser, a desktop, other architectures.
case " ${*:-} " in *' -bench '*) MEROS_TESTS=${MEROS_TESTS:-long} ;; esac
if [ "${MEROS_TESTS:-short}" != short ]; then
	needs="$needs
mmdebstrap        mmdebstrap         mmdebstrap
qemu-aarch64-static qemu-user-static qemu-aarch64
qemu-system-aarch64 qemu-system-arm  qemu-system-aarch64
/usr/share/qemu-efi-aarch64/QEMU_EFI.fd qemu-efi-aarch64 aavmf
waypipe           waypipe            waypipe
sway              sway               sway
grim              grim               grim
chromium          chromium           chromium
zsh               zsh                zsh
fish              fish               fish
groff             groff-base         groff
mksquashfs        squashfs-tools     squashfs-tools
mkfs.erofs        erofs-utils        erofs-utils
"
fi
# The race detector needs cgo.
case " ${*:-} " in *' -race '*) needs="$needs
gcc               build-essential    build-base
" ;; esac

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/go/bin"
export PATH
# Without cgo the program is static, so that it can be the init of a guest.
case " ${*:-} " in *' -race '*) ;; *) CGO_ENABLED=${CGO_ENABLED:-0}; export CGO_ENABLED ;; esac

manager=none
if command -v apt-get >/dev/null 2>&1; then
	manager=apt
elif command -v apk >/dev/null 2>&1; then
	manager=apk
fi

missing=
while read -r program debian alpine; do
	[ -n "$program" ] || continue
	command -v "$program" >/dev/null 2>&1 || [ -f "/${program#/}" ] && continue
	case $manager in
	apt) missing="$missing $debian" ;;
	apk) missing="$missing $alpine" ;;
	*) missing="$missing $program" ;;
	esac
done <<EOF
$needs
EOF

if [ -n "$missing" ]; then
	missing=$(printf '%s\n' $missing | sort -u | tr '\n' ' ')
	sudo=
	if [ "$(id -u)" != 0 ]; then
		sudo=sudo
		command -v sudo >/dev/null 2>&1 || { echo "dist-conf: install these as root, then run this again: $missing" >&2; exit 1; }
	fi
	echo "dist-conf: installing $missing" >&2
	# shellcheck disable=SC2086 # a list of words
	case $manager in
	apt)
		$sudo apt-get -q update >&2
		$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends $missing >&2
		;;
	apk) $sudo apk add $missing >&2 ;;
	none)
		echo "dist-conf: this distribution is not known here; install these programs yourself: $missing" >&2
		exit 1
		;;
	esac
fi

[ $# -eq 0 ] || exec "$@"
