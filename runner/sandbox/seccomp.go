// This file restricts the system calls of foreign code.

package sandbox

import (
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// newNamespaces are the namespaces that foreign code must not create. In its own
// user namespace it would have every capability again, also over resources without
// namespaces of their own (cgroups, for one).
const newNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWCGROUP

// denied lists system calls that foreign code does not need and that reach beyond
// all namespaces. They reach the kernel's keyrings, its BPF programs and its own
// image.
var denied = []uint32{
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL, unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_KEXEC_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_IO_URING_SETUP, unix.SYS_SETNS,
}

// families lists the allowed address families, socket(2). Network namespaces
// isolate these. They do not isolate AF_VSOCK, for one.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// Offsets in struct seccomp_data, seccomp(2). That of the argument is for its lower
// half.
const (
	dataCall = 0
	dataArch = 4
	dataArg0 = 16
)

// x32 marks the calls of x86_64's second interface, which has its own numbers,
// syscall(2).
const x32 = 0x40000000

// filter returns the program that checks each system call of foreign code,
// seccomp(2). It ends with allow or with one of three errors.
func filter() []unix.SockFilter {
	allow := ret(unix.SECCOMP_RET_ALLOW)
	refuse := func(e unix.Errno) unix.SockFilter { return ret(unix.SECCOMP_RET_ERRNO | uint32(e)) }
	p := []unix.SockFilter{
		load(dataArch), skipIf(auditArch, 1), refuse(unix.ENOSYS), // another architecture's calls have other numbers
		load(dataCall), skipUnlessSet(x32, 1), refuse(unix.ENOSYS),
	}
	for _, call := range slices.Concat(denied, deniedHere) {
		p = append(p, skipUnless(call, 1), refuse(unix.EPERM))
	}
	// The flags of clone3(2) are in memory, where a filter cannot read them. If it
	// fails, programs use clone(2).
	p = append(p, skipUnless(unix.SYS_CLONE3, 1), refuse(unix.ENOSYS))
	for _, call := range []uint32{unix.SYS_CLONE, unix.SYS_UNSHARE} {
		p = append(p, skipUnless(call, 4), load(dataArg0), skipUnlessSet(newNamespaces, 1), refuse(unix.EPERM), allow)
	}
	p = append(p, skipUnless(unix.SYS_SOCKET, uint8(2+2*len(families))), load(dataArg0))
	for _, f := range families {
		p = append(p, skipUnless(f, 1), allow)
	}
	return append(p, refuse(unix.EAFNOSUPPORT), allow)
}

func ret(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }

func load(at uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
}

// skipIf skips n instructions if the loaded value is k.
func skipIf(k uint32, n uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: n, K: k}
}

// skipUnless skips n instructions if the loaded value is not k.
func skipUnless(k uint32, n uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: n, K: k}
}

// skipUnlessSet skips n instructions if no bit of mask is set.
func skipUnlessSet(mask uint32, n uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jf: n, K: mask}
}

// restrictCalls sets the filter for this thread and the processes that it starts.
// It needs CAP_SYS_ADMIN. The alternative, "no new privileges", would break su(1).
func restrictCalls() error {
	if auditArch == 0 {
		return nil // an architecture without a known number
	}
	p := filter()
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); e != 0 {
		return fmt.Errorf("restrict system calls: %w", e)
	}
	return nil
}
