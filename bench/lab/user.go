// This file runs commands as an ordinary user, in a mount namespace with its
// own user database and devices.

package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// UserOptions describes the ordinary user of a test.
type UserOptions struct {
	NoSubIDs bool     // the user has no subordinate ids
	Without  []string // programs that the user cannot find
	Umask    string   // "" keeps the test's
}

// userScript creates the user and the device nodes in its own mount namespace,
// and becomes the user. The nodes have udev's mode, 0666.
const userScript = `set -e
mount --make-rprivate /
for f in passwd group subuid subgid; do [ -e /etc/$f ] || : >/etc/$f; mount --bind "$LAB_DIR/$f" /etc/$f; done
mount -t tmpfs -o mode=755 dev "$LAB_DIR/dev"
mknod -m 0666 "$LAB_DIR/dev/fuse" c 10 229
mknod -m 0666 "$LAB_DIR/dev/tun" c 10 200
if [ -e /dev/fuse ]; then mount --bind "$LAB_DIR/dev/fuse" /dev/fuse; fi
if [ -e /dev/net/tun ]; then mount --bind "$LAB_DIR/dev/tun" /dev/net/tun; fi
for p in $LAB_WITHOUT; do f=$(command -v "$p") && mount --bind /dev/null "$f"; done
${LAB_UMASK:+umask $LAB_UMASK}
exec setpriv --reuid=61001 --regid=61001 --clear-groups env HOME="$LAB_DIR/home" USER=lab "$@"
`

// AsUser returns a command that runs cmd as an ordinary user, and gives the
// project to that user.
func (p *Project) AsUser(t testing.TB, o UserOptions, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	NeedRoot(t)
	Need(t, "unshare", "setpriv", "newuidmap")
	if p.shares {
		t.Fatal("the project shares files with other projects, so it cannot be given to a user")
	}
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	ids := "lab:200000:65536\n"
	if o.NoSubIDs {
		ids = ""
	}
	for name, text := range map[string]string{"subuid": ids, "subgid": ids, "passwd": "lab:x:61001:61001::/:/bin/sh\n", "group": "lab:x:61001:\n"} {
		host, _ := os.ReadFile("/etc/" + name)
		if name == "subuid" || name == "subgid" {
			host = nil
		}
		if err := os.WriteFile(filepath.Join(dir, name), append(host, text...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"dev", "home"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("chown", "-R", "61001:61001", p.Root, filepath.Join(dir, "home")).CombinedOutput(); err != nil {
		t.Fatalf("chown: %v\n%s", err, out)
	}
	without := ""
	for _, w := range o.Without {
		without += w + " "
	}
	user := exec.Command("unshare", append([]string{"--mount", "sh", "-c", userScript, "sh"}, cmd.Args...)...)
	user.Args[6] = cmd.Path
	user.Env = append(os.Environ(), "LAB_DIR="+dir, "LAB_WITHOUT="+without, "LAB_UMASK="+o.Umask)
	user.Dir = p.Root
	return user
}
