// This file gives machines a minimal first process that boots in a few seconds.

package lab

import (
	"os"
	"testing"
)

// tinyInit is a first process that starts only sshd, within a few seconds. It
// does not react to the power button and cannot shut down.
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

// Tiny gives a machine with [Packages] a first process that only starts sshd.
func (p *Project) Tiny(t testing.TB, constellation, machine string) {
	t.Helper()
	file := "constellations/" + constellation + "/" + machine + "/includes.chroot/usr/sbin/init"
	p.Write(t, file, tinyInit)
	if err := os.Chmod(p.Path(file), 0o755); err != nil {
		t.Fatal(err)
	}
}
