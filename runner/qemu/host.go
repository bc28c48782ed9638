// This file reads the version of QEMU and names the host's architecture.

package qemu

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
)

// oldest is the first version of QEMU with what a machine here needs: the
// commands of snapshots, snapshot-save of qapi/migration.json.
const oldest = 6

// fresh is the first version of QEMU that locks a page while it translates it
// (commit deba78709a, "accel/tcg: Always lock pages before translation"). Before,
// an emulated processor may translate what another is just changing, and keep
// that: Linux changes its own code as it runs, and hangs in a breakpoint that is
// no longer there.
var fresh = [2]int{8, 1}

var versionLine = regexp.MustCompile(`version (\d+)\.(\d+)`)

// TooOld is a hint for an error of a QEMU that is older than meros can use, or
// "".
func TooOld(ctx context.Context, program string) string {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return ""
	}
	return tooOld(string(out))
}

func tooOld(version string) string {
	if major, minor, ok := parseVersion(version); ok && major < oldest {
		return fmt.Sprintf(" (this is QEMU %d.%d; meros needs %d.0 or newer)", major, minor, oldest)
	}
	return ""
}

// stale tells whether processors that are emulated side by side may run code as
// it was before it was changed.
func stale(version string) bool {
	major, minor, ok := parseVersion(version)
	return ok && (major < fresh[0] || major == fresh[0] && minor < fresh[1])
}

// parseVersion reads what --version prints.
func parseVersion(text string) (major, minor int, ok bool) {
	m := versionLine.FindStringSubmatch(text)
	if m == nil {
		return 0, 0, false
	}
	major, err := strconv.Atoi(m[1])
	minor, merr := strconv.Atoi(m[2])
	return major, minor, err == nil && merr == nil
}

// hostArch is QEMU's name for this program's architecture.
func hostArch() string {
	if a, ok := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i386"}[runtime.GOARCH]; ok {
		return a
	}
	return runtime.GOARCH
}
