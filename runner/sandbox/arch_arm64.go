// This file holds the numbers of system calls that depend on the architecture.

package sandbox

import "golang.org/x/sys/unix"

// auditArch is the architecture's number in struct seccomp_data, audit.h.
const auditArch = unix.AUDIT_ARCH_AARCH64

// deniedHere lists further denied calls that not every architecture has.
var deniedHere = []uint32{unix.SYS_KEXEC_FILE_LOAD}
