// This test recognizes hooks that install packages.

package stages

import "testing"

func TestInstallsPackages(t *testing.T) {
	for line, want := range map[string]bool{
		"apk add nginx": true, "  apk --no-cache add x": true, "apt-get install -y x": true, "apt -y install x": true, "set -e; apt-get -qq install x": true,
		"# apk add nginx": false, "apk info": false, "apt-get update": false, "mapk addx": false,
	} {
		if got := InstallsPackages([]byte("#!/bin/sh\n" + line + "\n")); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}
