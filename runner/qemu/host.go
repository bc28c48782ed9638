// This file reads the version of QEMU and names the host's architecture.

package qemu

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

// oldest is the first major version of QEMU that meros supports. It introduced
// the snapshot commands, snapshot-save of qapi/migration.json.
const oldest = 6

// fresh is the first version of QEMU that locks a page while it translates it
// (commit deba78709a, "accel/tcg: Always lock pages before translation"). An older
// one may translate code while another processor changes it, and keep the stale
// translation. Linux patches its own code as it runs, and hangs in a breakpoint
// that is no longer there.
var fresh = [2]int{8, 1}

var versionLine = regexp.MustCompile(`version (\d+)\.(\d+)`)

// TooOld returns a sentence about a QEMU that is older than meros supports, or
// "". It serves as a hint for an error of that QEMU.
func TooOld(ctx context.Context, program string) string {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return ""
	}
	return tooOld(string(out))
}

func tooOld(version string) string {
	if major, minor, ok := parseVersion(version); ok && major < oldest {
		return fmt.Sprintf("this is QEMU %d.%d; meros needs %d.0 or newer", major, minor, oldest)
	}
	return ""
}

// stale reports whether processors that this version emulates in parallel may run
// stale code.
func stale(version string) bool {
	major, minor, ok := parseVersion(version)
	return ok && (major < fresh[0] || major == fresh[0] && minor < fresh[1])
}

// parseVersion reads the version from the output of --version.
func parseVersion(text string) (major, minor int, ok bool) {
	m := versionLine.FindStringSubmatch(text)
	if m == nil {
		return 0, 0, false
	}
	major, err := strconv.Atoi(m[1])
	minor, merr := strconv.Atoi(m[2])
	return major, minor, err == nil && merr == nil
}
