// This file tests the comparison of the packages of two images.

package main

import (
	"fmt"
	"testing"

	"meros/runner/layer"
)

// TestDifferInPackages compares two package databases of dpkg, and reads one of
// apk.
func TestDifferInPackages(t *testing.T) {
	dpkg := func(text string) map[string]string {
		return packagesIn(&layer.Listing{Contents: map[string][]byte{dpkgStatus: []byte(text)}})
	}
	a := dpkg("Package: bash\nStatus: install ok installed\nVersion: 5.2-1\n\nPackage: dash\nVersion: 1\n\nPackage: gone\nVersion: 3\n\nPackage: purged\nStatus: deinstall ok config-files\nVersion: 1\n")
	b := dpkg("Package: bash\nVersion: 5.2-2\n\nPackage: dash\nVersion: 1\n\nPackage: fresh\nVersion: 4\n")
	if got, want := fmt.Sprint(differInPackages(a, b)), "[bash: 5.2-1 -> 5.2-2 fresh: new (4) gone: gone (3)]"; got != want {
		t.Errorf("the differences are %s, want %s", got, want)
	}
	apk := packagesIn(&layer.Listing{Contents: map[string][]byte{apkInstalled: []byte("C:Q1x\nP:musl\nV:1.2.5-r0\nA:x86_64\n\nP:busybox\nV:1.36-r1\n")}})
	if fmt.Sprint(apk) != "map[busybox:1.36-r1 musl:1.2.5-r0]" {
		t.Errorf("the packages of apk are %v", apk)
	}
}
