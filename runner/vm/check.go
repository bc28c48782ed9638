// This file boots a machine once to check that it comes up.

package vm

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner/qemu"
)

// Verdict is the result of a boot check.
type Verdict struct {
	Ready     bool              `json:"ready"`
	Seconds   float64           `json:"seconds"` // from start to the first login
	Accel     string            `json:"accel"`
	Kernel    string            `json:"kernel"`     // output of uname -srvm in the guest
	OSRelease map[string]string `json:"os_release"` // os-release(5) of the guest
}

// CheckBoot boots a machine of the group in this process, without a supervisor
// and without networks. It logs in, asks the guest for its versions and kills it.
// timeout is the longest time until the first login. The console log stays in
// the group's state directory.
func CheckBoot(ctx context.Context, g *Group, m *Machine, timeout time.Duration) (*Verdict, error) {
	once := func(_ *Machine, q *qemu.Machine) { q.Once = true }
	l := newLauncher(g, once, func(pid int) (int, error) { return pid, nil })
	r, err := l.start(ctx, m, func(string) {})
	if err != nil {
		return nil, err
	}
	defer func() {
		r.record.kill(unix.SIGKILL)
		<-r.exited
		l.tidy(m.Name, false)
	}()
	if err := l.wait(ctx, r, StartOptions{Timeout: timeout}); err != nil {
		return nil, err
	}
	v := &Verdict{Ready: true, Seconds: r.record.Ready, Accel: r.record.Accel, OSRelease: make(map[string]string)}
	out, err := r.host.Run(ctx, "uname -srvm && cat /etc/os-release")
	if err != nil {
		return nil, g.withConsole(m.Name, fmt.Errorf("ask the guest for its versions: %w", err))
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	v.Kernel = lines[0]
	for _, l := range lines[1:] {
		if k, value, ok := strings.Cut(l, "="); ok {
			v.OSRelease[k] = strings.Trim(value, `"'`)
		}
	}
	return v, nil
}
