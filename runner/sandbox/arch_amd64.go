package sandbox

import "golang.org/x/sys/unix"

// auditArch is this architecture's number in struct seccomp_data, audit.h.
const auditArch = unix.AUDIT_ARCH_X86_64
