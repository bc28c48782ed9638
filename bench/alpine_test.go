// This file measures how long Alpine machines take to build and to boot.

package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"meros/bench/lab"
)

// BenchmarkAlpine builds an Alpine system from a mirror on this disk. It
// measures up to the packages (target: 1.0 s) and up to the packed image
// (target: 1.6 s). The limit is the time that tar takes to unpack the same root
// file system.
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

// BenchmarkAlpineLogin boots an Alpine system up to the prompt on its console
// (target: 5 s, without KVM) and up to ssh. The limit is the time that the kernel
// of the same boot takes to start its first program.
func BenchmarkAlpineLogin(b *testing.B) {
	lab.NeedRoot(b)
	lab.Need(b, "qemu-system-x86_64")
	m := lab.NewAlpineMirror(b, "x86_64")
	p := lab.Downloaded(b, "alp")
	m.AddBoot(b, p, "constellations/alp/meros.lock")
	p.Write(b, "constellations/alp/manifest.yml", fmt.Sprintf("virtual_machines:\n  m: {distribution: alpine, mirror: \"%s\", keys: [%s, %s], memory: 128M, cpus: 1, kvm: off, packages: [openssh-server]}\n",
		m.URL(), filepath.Join(m.Keys, lab.AlpineKey), filepath.Join(m.Keys, lab.AlpineRelease)))
	p.Must(b, "update", "alp")
	p.Must(b, "build", "alp")
	b.Cleanup(func() { p.Run(b, "shutdown", "alp", "--wait=0") })
	s := make(samples)
	defer s.report(b)
	for b.Loop() {
		console := p.Path("data/state/alp/m/console.log")
		if err := os.Remove(console); err != nil && !os.IsNotExist(err) {
			b.Fatal(err)
		}
		times := make(chan []time.Duration)
		go func() { times <- printed(console, "Run /init", "login:") }()
		ready := p.Must(b, "init", "alp").Wall
		at := <-times
		if at == nil {
			b.Fatal("the console showed no login prompt")
		}
		p.Must(b, "shutdown", "alp", "--wait=0")
		s.add("s/login", at[1].Seconds())
		s.add("s/ssh", ready.Seconds())
		s.add("x/kernel", at[1].Seconds()/at[0].Seconds())
	}
}

// printed waits until a file contains all the texts and returns how long each
// took to appear. It returns nil after a minute.
func printed(file string, texts ...string) []time.Duration {
	start := time.Now()
	var at []time.Duration
	for time.Since(start) < time.Minute {
		content, _ := os.ReadFile(file)
		for len(at) < len(texts) && bytes.Contains(content, []byte(texts[len(at)])) {
			at = append(at, time.Since(start))
		}
		if len(at) == len(texts) {
			return at
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}
