// This file serves directories of the host to a machine by virtiofs.

package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// shareSocket names the nth share's socket in the machine's directory.
func shareSocket(n int) string { return fmt.Sprintf("share%d.sock", n) }

// virtiofsd lists the places where distributions install the program, none of
// which is on a PATH.
var virtiofsd = []string{"/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/libexec/qemu/virtiofsd"}

// share starts a server for each directory that the machine mounts, until stop is
// called. Each server is confined to its directory and has no more rights than the
// directory's owner.
func (l *launcher) share(m *Machine) (stop func(), err error) {
	var running []*exec.Cmd
	stop = func() {
		for _, cmd := range running {
			cmd.Process.Kill()
			cmd.Wait()
		}
		for i := range m.Shares {
			unix.Unmount(l.file(m.Name, shareDir(i)), unix.MNT_DETACH)
			os.Remove(l.file(m.Name, shareDir(i)))
			os.Remove(l.file(m.Name, shareSocket(i)))
		}
	}
	if len(m.Shares) == 0 {
		return stop, nil
	}
	program := ""
	for _, p := range virtiofsd {
		if _, err := os.Stat(p); err == nil {
			program = p
			break
		}
	}
	if program == "" {
		err := errors.New("virtiofsd is not installed, which serves directories of the host to machines")
		return nil, hint.Add(err, "Debian 12: `apt install qemu-system-common`; later releases: `apt install virtiofsd`")
	}
	for i, s := range m.Shares {
		cmd, err := l.serveShare(m, program, i, s)
		if err != nil {
			stop()
			return nil, fmt.Errorf("mount %s: %w", s.Source, err)
		}
		running = append(running, cmd)
	}
	return stop, nil
}

// shareDir names the read-only mount of the nth share in the machine's directory.
func shareDir(n int) string { return fmt.Sprintf("share%d", n) }

func (l *launcher) serveShare(m *Machine, program string, i int, s Share) (*exec.Cmd, error) {
	source := s.Source
	if s.ReadOnly {
		source = l.file(m.Name, shareDir(i))
		if err := os.MkdirAll(source, 0o700); err != nil {
			return nil, err
		}
		if err := bindReadOnly(s.Source, source); err != nil {
			return nil, err
		}
	}
	socket, err := listenAt(l.file(m.Name, shareSocket(i)))
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	log, err := os.OpenFile(filepath.Join(l.dir(m.Name), qemuLogFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// With --socket-path instead of --fd, virtiofsd would need a directory in /run.
	cmd := exec.Command(program, "--fd=3", "--rlimit-nofile=4096", "-o", "source="+source, "-o", "sandbox=namespace", "-o", "log_level=warn")
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if os.Geteuid() == 0 && mapsMany() {
		var st unix.Stat_t
		if err := unix.Stat(s.Source, &st); err != nil {
			return nil, err
		}
		cmd.SysProcAttr = &unix.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: []unixIDMap{{ContainerID: 0, HostID: int(st.Uid), Size: 1}}, GidMappings: []unixIDMap{{ContainerID: 0, HostID: int(st.Gid), Size: 1}},
			Credential: &syscall.Credential{NoSetGroups: true}, // id 0, which is the owner by the maps
		}
	}
	return cmd, cmd.Start()
}

// bindReadOnly mounts a directory at another place, read-only, mount_setattr(2).
func bindReadOnly(from, to string) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH)
}
