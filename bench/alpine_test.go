package bench

import (
	"fmt"
	"path/filepath"
	"testing"

	"meros/cmd/lab"
)

// BenchmarkAlpine makes a system of Alpine from a mirror on this disk: up to its
// packages (wanted: 1.0 s) and up to the packed image (wanted: 1.6 s). The limit
// it is measured against is what tar takes to unpack the same root file system.
func BenchmarkAlpine(b *testing.B) {
	lab.NeedRoot(b)
	m := lab.NewAlpineMirror(b, "x86_64")
	m.Add(b, lab.APK{Name: "hello", Version: "1.2-r3", Depends: "/bin/sh", Files: map[string]string{"usr/bin/hello": "#!/bin/sh\necho hello\n"}, PostInstall: "#!/bin/sh\nhello > /etc/installed\n"})
	m.Index(b)
	manifest := fmt.Sprintf("virtual_machines:\n  m: {distribution: alpine, mirror: \"%s\", keys: [%s, %s], kernel: bzImage, packages: [hello]}\n",
		m.URL(), filepath.Join(m.Keys, lab.AlpineKey), filepath.Join(m.Keys, lab.AlpineRelease))
	s := make(samples)
	defer s.report(b)
	for b.Loop() {
		p := lab.New(b, map[string]string{"constellations/alp/manifest.yml": manifest})
		p.Must(b, "lock", "alp")
		o := p.Must(b, "build", "alp", "--locked", "--rootfs-only")
		dir := b.TempDir()
		tar := lab.Time(b, "tar", "-xzf", m.RootFS(), "-C", dir)
		_, base := o.Stage("apk")
		s.add("s/base", base)
		s.add("s/image", o.Wall.Seconds())
		s.add("x/tar", base/tar.Seconds())
	}
}
