// This file drops the capabilities that code in a sandbox must not have.

package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// allowed lists the capabilities of foreign code. Package scripts need them, and
// none reaches out of the sandbox, even if the sandbox's uid 0 is the host's. It
// is the list of container engines without CAP_MKNOD, CAP_AUDIT_WRITE and
// CAP_NET_RAW, which could send frames to the host's loopback (capabilities(7)).
var allowed = map[uintptr]bool{
	unix.CAP_CHOWN: true, unix.CAP_DAC_OVERRIDE: true, unix.CAP_FOWNER: true,
	unix.CAP_FSETID: true, unix.CAP_KILL: true, unix.CAP_NET_BIND_SERVICE: true,
	unix.CAP_SETFCAP: true, unix.CAP_SETGID: true, unix.CAP_SETPCAP: true, unix.CAP_SETUID: true, unix.CAP_SYS_CHROOT: true,
}

// ofTheHost lists capabilities that trusted steps do not need either. Dropping
// them limits the damage if hostile input takes over a program that a step runs.
var ofTheHost = []uintptr{
	unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYS_BOOT, unix.CAP_SYS_TIME, unix.CAP_SYS_PTRACE, unix.CAP_SYSLOG, unix.CAP_SYS_PACCT,
	unix.CAP_MAC_ADMIN, unix.CAP_MAC_OVERRIDE, unix.CAP_AUDIT_CONTROL, unix.CAP_AUDIT_READ, unix.CAP_WAKE_ALARM, unix.CAP_BLOCK_SUSPEND,
	unix.CAP_PERFMON, unix.CAP_BPF, unix.CAP_LINUX_IMMUTABLE, unix.CAP_IPC_LOCK, unix.CAP_SYS_TTY_CONFIG,
}

// dropHost drops [ofTheHost] from the processes that this thread starts.
func dropHost() error {
	for _, c := range ofTheHost {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}

// dropCapabilities drops all capabilities but [allowed] from the processes that
// this thread starts, permanently: on execve(2) a process of uid 0 gets its
// bounding set.
func dropCapabilities() error {
	for c := uintptr(0); c <= 63; c++ {
		if allowed[c] {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL {
			break // past this kernel's last capability
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	// A file's capabilities would restore the inheritable ones.
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("clear inheritable capabilities: %w", err)
	}
	return nil
}

// loopbackUp brings up lo, which is down in a new network namespace,
// netdevice(7).
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}
