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

var versionLine = regexp.MustCompile(`version (\d+)\.\d+`)

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
	m := versionLine.FindStringSubmatch(version)
	if m == nil {
		return ""
	}
	if n, err := strconv.Atoi(m[1]); err != nil || n >= oldest {
		return ""
	}
	return fmt.Sprintf(" (this is QEMU %s; meros needs %d.0 or newer)", m[0][len("version "):], oldest)
}

// hostArch is QEMU's name for this program's architecture.
func hostArch() string {
	if a, ok := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i386"}[runtime.GOARCH]; ok {
		return a
	}
	return runtime.GOARCH
}
