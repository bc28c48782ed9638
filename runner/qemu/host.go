package qemu

import "runtime"

// hostArch is QEMU's name for this program's architecture.
func hostArch() string {
	if a, ok := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i386"}[runtime.GOARCH]; ok {
		return a
	}
	return runtime.GOARCH
}
