package guest

import (
	"fmt"
	"os"
)

// unsettled are files that the tools of a system rewrite whenever they run,
// with what no two runs have in common, and that it can do without.
var unsettled = []string{
	"var/cache/ldconfig/aux-cache", // inode numbers, ldconfig(8)
	"var/lib/systemd/random-seed",
}

// Settle removes from the system in root what would make two runs of the same
// scripts differ, and a machine id that a script has made: each machine gets
// its own when it first boots, machine-id(5).
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
	const id = "etc/machine-id"
	fi, err := r.Lstat(id)
	if err != nil || !fi.Mode().IsRegular() || fi.Size() == 0 {
		return nil
	}
	f, err := r.OpenFile(id, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("empty %s: %w", id, err)
	}
	return f.Close()
}
