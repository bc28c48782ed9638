package lab

import (
	"os"
	"testing"
)

// tinyInit is the first process of a machine that is there in a few seconds:
// no power button and no shutdown, sshd alone.
const tinyInit = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /dev/pts /run/sshd
mount -t devpts devpts /dev/pts
swapon -a
mkdir -p $(awk '$2 ~ "^/" {print $2}' /etc/fstab 2>/dev/null) /run
mount -a
echo tiny init is up >/dev/console
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
test -e /etc/no-sshd || /usr/sbin/sshd
while :; do sleep 1000 & wait $!; done
`

// Tiny gives a machine with [Packages] a first process that starts sshd and
// nothing else.
func (p *Project) Tiny(t testing.TB, constellation, machine string) {
	t.Helper()
	file := "constellations/" + constellation + "/" + machine + "/includes.chroot/usr/sbin/init"
	p.Write(t, file, tinyInit)
	if err := os.Chmod(p.Path(file), 0o755); err != nil {
		t.Fatal(err)
	}
}
