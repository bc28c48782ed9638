package sandbox

import "golang.org/x/sys/unix"

// auditArch is this architecture's number in struct seccomp_data, audit.h.
const auditArch = unix.AUDIT_ARCH_AARCH64

// deniedHere are further calls to deny, which not every architecture has.
var deniedHere = []uint32{unix.SYS_KEXEC_FILE_LOAD}
