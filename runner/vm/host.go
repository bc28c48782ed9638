// This file reads facts about the host from /proc.

package vm

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// unixIDMap is a line of uid_map, user_namespaces(7).
type unixIDMap = syscall.SysProcIDMap

// mapsMany reports whether this user namespace has more than one id.
func mapsMany() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	f := strings.Fields(string(b))
	return len(f) != 3 || f[2] != "1"
}

// defaultRoute returns the interface of the default route, which has an empty
// mask, or "". table is the content of /proc/net/route, proc_pid_net(5).
func defaultRoute(table string) string {
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			return f[0]
		}
	}
	return ""
}

// holder returns " (PROGRAM, process N, listens there)" for a taken port, or "" if
// it cannot find the process.
func holder(a netip.AddrPort) string {
	inodes := make(map[string]bool)
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, _ := os.ReadFile(file)
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" { // TCP_LISTEN
				continue
			}
			_, port, _ := strings.Cut(f[1], ":")
			if n, err := strconv.ParseUint(port, 16, 16); err == nil && uint16(n) == a.Port() {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && inodes[to] {
			dir := filepath.Dir(filepath.Dir(fd))
			comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
			return fmt.Sprintf(" (%s, process %s, listens there)", strings.TrimSpace(string(comm)), filepath.Base(dir))
		}
	}
	return ""
}
