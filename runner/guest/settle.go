package guest

import (
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// unsettled are files that the tools of a system rewrite whenever they run,
// with what no two runs have in common, and that it can do without.
var unsettled = []string{
	"var/cache/ldconfig/aux-cache", // inode numbers, ldconfig(8)
	"var/lib/systemd/random-seed",
	"var/lib/dbus/machine-id", // dbus takes etc/machine-id without it
	"var/log/dpkg.log", "var/log/alternatives.log",
	"var/log/apt/history.log", "var/log/apt/term.log", "var/log/apt/eipp.log.xz",
}

// hostKeys is where the keys are that installing an ssh server makes. Each
// machine gets its own when it boots.
const hostKeys = "etc/ssh"

// Settle removes from the system in root what would make two runs of the same
// scripts differ, and the identity that a script may have made: the keys of
// an ssh server and the machine id, machine-id(5), which each machine gets
// when it boots.
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
	for _, n := range listIn(r, hostKeys) { // none without an ssh server
		if strings.HasPrefix(n, "ssh_host_") {
			if err := r.Remove(path.Join(hostKeys, n)); err != nil {
				return err
			}
		}
	}
	return nil
}
