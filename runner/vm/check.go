package vm

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Verdict is the result of a boot check.
type Verdict struct {
	Ready     bool              `json:"ready"`
	Seconds   float64           `json:"seconds"` // from start to the first login
	Accel     string            `json:"accel"`
	Kernel    string            `json:"kernel"`     // uname -srvm of the guest
	OSRelease map[string]string `json:"os_release"` // os-release(5) of the guest
}

// Check boots a machine, logs in, asks what it is and ends it. The console
// log stays in the group's state directory.
func (g *Group) Check(ctx context.Context, m *Machine, patience time.Duration) (*Verdict, error) {
	r, err := g.start(ctx, m, func(string) {})
	if err != nil {
		return nil, err
	}
	defer func() {
		r.record.kill(unix.SIGKILL)
		<-r.exited
		g.clear(m.Name)
	}()
	if err := g.wait(ctx, r, UpOptions{Patience: patience}); err != nil {
		return nil, err
	}
	v := &Verdict{Ready: true, Seconds: r.record.Ready, Accel: r.record.Accel, OSRelease: make(map[string]string)}
	out, err := r.host.Run(ctx, "uname -srvm && cat /etc/os-release")
	if err != nil {
		return nil, g.withConsole(m.Name, fmt.Errorf("it could be logged in to, but not asked what it is: %w", err))
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
