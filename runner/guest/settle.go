// This file removes from a system what differs between two runs of the same
// scripts.

package guest

import (
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// unsettled lists files that a system does not need and that its tools rewrite
// differently in every run.
var unsettled = []string{
	"var/cache/ldconfig/aux-cache", // inode numbers, ldconfig(8)
	"var/lib/systemd/random-seed",
	"var/lib/dbus/machine-id", // without it dbus uses etc/machine-id
	"var/log/dpkg.log", "var/log/alternatives.log",
	"var/log/apt/history.log", "var/log/apt/term.log", "var/log/apt/eipp.log.xz",
}

// hostKeys is the directory of the keys that installing an ssh server creates. Each
// machine gets its own at boot.
const hostKeys = "etc/ssh"

// Settle removes everything from the system in root that makes two runs of the same
// scripts differ. It also removes an identity that a script may have created: the
// keys of an ssh server and the machine id, machine-id(5). Each machine gets these
// at boot.
func Settle(root string) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, name := range unsettled {
		if err := r.Remove(name); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	if err := removeHostKeys(r); err != nil {
		return fmt.Errorf("remove the ssh server's keys: %w", err)
	}
	const id = "etc/machine-id"
	fi, err := r.Lstat(id)
	if err != nil || !fi.Mode().IsRegular() || fi.Size() == 0 {
		return nil
	}
	f, err := r.OpenFile(id, os.O_WRONLY|os.O_TRUNC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("empty %s: %w", id, err)
	}
	return f.Close()
}

func removeHostKeys(r *os.Root) error {
	for _, n := range listIn(r, hostKeys) { // empty without an ssh server
		if strings.HasPrefix(n, "ssh_host_") {
			if err := r.Remove(path.Join(hostKeys, n)); err != nil {
				return err
			}
		}
	}
	return nil
}
