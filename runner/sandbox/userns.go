// This file runs the program as root of a user namespace, for ordinary users.

package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// userNSEnv makes the re-executed program wait for its id maps.
const userNSEnv = "MEROS_USER_NAMESPACE"

// ids is the number of user and group ids that a root file system needs: 0 to
// 65535.
const ids = 65536

// InUserNamespace executes the program again, with the given arguments, as root of
// a user namespace, and returns its exit status. The namespace maps the caller's id
// to 0 and its subordinate ids (subuid(5)) to 1 and up. The ids are mapped once for
// a program, and all its sandboxes live in that namespace. InUserNamespace forwards
// the signals that only this process receives.
func InUserNamespace(ctx context.Context, args []string) (exit int, err error) {
	uidMap, gidMap, err := idMaps()
	if err != nil {
		return 0, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer w.Close()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), userNSEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{r}
	// The maps arrive after execve(2), which drops the capabilities of a process
	// that is not uid 0 yet. Ambient ones survive, capabilities(7).
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, Pdeathsig: unix.SIGKILL, AmbientCaps: allCapabilities()}

	sigs := make(chan os.Signal, 4)
	signal.Notify(sigs, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(sigs)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	r.Close()
	if err != nil {
		return 0, hint.Add(fmt.Errorf("create a user namespace: %w", err),
			"allow it with `sysctl -w user.max_user_namespaces=15000`, on Ubuntu also `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`; or run as root")
	}
	err = errors.Join(writeMap("newuidmap", cmd.Process.Pid, uidMap), writeMap("newgidmap", cmd.Process.Pid, gidMap))
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return 0, err
	}
	w.Write([]byte{1})
	w.Close()
	go func() {
		for s := range sigs {
			// The terminal also sends SIGINT and SIGQUIT to the child.
			if s == unix.SIGTERM || s == unix.SIGHUP || !isTerminal(0) {
				cmd.Process.Signal(s)
			}
		}
	}()
	err = cmd.Wait()
	if exitErr := (*exec.ExitError)(nil); errors.As(err, &exitErr) {
		if ws, ok := exitErr.Sys().(unix.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exitErr.ExitCode(), nil
	}
	return 0, err
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

// EnterUserNamespace completes [InUserNamespace] in the new process. It reports
// whether this is such a process. Call it before other goroutines start.
func EnterUserNamespace() (entered bool, err error) {
	if os.Getenv(userNSEnv) == "" {
		return false, nil
	}
	os.Unsetenv(userNSEnv)
	f := os.NewFile(3, "maps")
	_, err = io.ReadFull(f, make([]byte, 1))
	f.Close()
	if err != nil {
		return true, errors.New("enter the user namespace: received no id maps")
	}
	for _, step := range []func() error{
		func() error { return unix.Setresgid(0, 0, 0) },
		func() error { return unix.Setresuid(0, 0, 0) },
		// A change of ids clears the signal, prctl(2).
		func() error { return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0) },
	} {
		if err := step(); err != nil {
			return true, fmt.Errorf("enter the user namespace: %w", err)
		}
	}
	return true, nil
}

func allCapabilities() []uintptr {
	last := 40
	if b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			last = n
		}
	}
	var caps []uintptr
	for c := 0; c <= last; c++ {
		caps = append(caps, uintptr(c))
	}
	return caps
}

// idMap is one line of uid_map, user_namespaces(7).
type idMap struct{ inner, outer, count int }

func idMaps() (uids, gids []idMap, err error) {
	u, err := user.Current()
	if err != nil {
		return nil, nil, fmt.Errorf("find the current user: %w", err)
	}
	for _, x := range []struct {
		file, tool string
		self       int
		to         *[]idMap
	}{{"/etc/subuid", "newuidmap", os.Getuid(), &uids}, {"/etc/subgid", "newgidmap", os.Getgid(), &gids}} {
		if _, err := exec.LookPath(x.tool); err != nil {
			return nil, nil, hint.Add(fmt.Errorf("%s is not installed, and an ordinary user needs it to build", x.tool), "Debian, Ubuntu: `apt install uidmap`; or run as root")
		}
		f, err := os.Open(x.file)
		if err != nil && !os.IsNotExist(err) {
			return nil, nil, err
		}
		start, count := 0, 0
		if err == nil {
			start, count = subRange(f, u.Username, u.Uid)
			f.Close()
		}
		if count < ids-1 {
			err := fmt.Errorf("%s: no range of %d ids for %s, which a root file system needs", x.file, ids, u.Username)
			return nil, nil, hint.Add(err, "add one with `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s`, or run as root", u.Username)
		}
		*x.to = []idMap{{0, x.self, 1}, {1, start, min(count, ids-1)}}
	}
	return uids, gids, nil
}

// subRange returns the largest range of name or uid in a subuid(5) file.
func subRange(r io.Reader, name, uid string) (start, count int) {
	for s := bufio.NewScanner(r); s.Scan(); {
		f := strings.Split(strings.TrimSpace(s.Text()), ":")
		if len(f) != 3 || (f[0] != name && f[0] != uid) {
			continue
		}
		a, err1 := strconv.Atoi(f[1])
		n, err2 := strconv.Atoi(f[2])
		if err1 == nil && err2 == nil && a > 0 && n > count {
			start, count = a, n
		}
	}
	return start, count
}

func writeMap(tool string, pid int, m []idMap) error {
	args := []string{strconv.Itoa(pid)}
	for _, l := range m {
		args = append(args, strconv.Itoa(l.inner), strconv.Itoa(l.outer), strconv.Itoa(l.count))
	}
	out, err := exec.Command(tool, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", tool, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// HostUser returns the id of the user who started meros. In a user namespace of
// meros this is not the id of the process, which is 0 there.
func HostUser() string {
	if b, err := os.ReadFile("/proc/self/uid_map"); err == nil && os.Geteuid() == 0 {
		if f := strings.Fields(string(b)); len(f) >= 3 && f[0] == "0" { // user_namespaces(7)
			return f[1]
		}
	}
	return strconv.Itoa(os.Geteuid())
}
