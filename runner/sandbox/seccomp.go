package sandbox

import (
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Namespaces that foreign code must not make: in a user namespace of its own
// it would have every capability again, over what the kernel does not keep
// apart by namespaces (cgroups, for one).
const newNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWCGROUP

// denied are the system calls foreign code has no use for and that reach what
// no namespace holds: the kernel's keyrings, its programs and its own image.
var denied = []uint32{
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL, unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_KEXEC_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_IO_URING_SETUP, unix.SYS_SETNS,
}

// families are the sockets it may make, socket(2): what a network namespace
// keeps apart. AF_VSOCK, for one, is not.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// Offsets in struct seccomp_data, seccomp(2); of an argument the lower half.
const (
	dataCall = 0
	dataArch = 4
	dataArg0 = 16
)

// x32 marks the calls of a second interface of x86_64, syscall(2), with numbers
// of its own.
const x32 = 0x40000000

// filter is the program, seccomp(2), that each system call of foreign code
// passes. It has four ends: allow, and the three errors.
func filter() []unix.SockFilter {
	allow := ret(unix.SECCOMP_RET_ALLOW)
	refuse := func(e unix.Errno) unix.SockFilter { return ret(unix.SECCOMP_RET_ERRNO | uint32(e)) }
	p := []unix.SockFilter{
		load(dataArch), skipIf(auditArch, 1), refuse(unix.ENOSYS), // the calls of another architecture have other numbers
		load(dataCall), skipUnlessSet(x32, 1), refuse(unix.ENOSYS),
	}
	for _, call := range slices.Concat(denied, deniedHere) {
		p = append(p, skipUnless(call, 1), refuse(unix.EPERM))
	}
	// clone3(2) has its flags in memory, where no filter sees them. Without it
	// programs use clone(2).
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

// skipIf skips n instructions if the value is k, skipUnless if it is not.
func skipIf(k uint32, n uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: n, K: k}
}

func skipUnless(k uint32, n uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: n, K: k}
}

// skipUnlessSet skips n instructions if no bit of mask is set.
func skipUnlessSet(mask uint32, n uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jf: n, K: mask}
}

// restrictCalls makes the filter that of this thread and of all it starts. It
// needs CAP_SYS_ADMIN: with "no new privileges" instead, su(1) would not work.
func restrictCalls() error {
	if auditArch == 0 {
		return nil // an architecture whose number is not known here
	}
	p := filter()
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); e != 0 {
		return fmt.Errorf("restrict system calls: %w", e)
	}
	return nil
}
