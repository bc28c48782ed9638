package vm

import (
	"context"
	"fmt"
	"time"

	"github.com/digitalocean/go-qemu/qmp/raw"
	cryptossh "golang.org/x/crypto/ssh"

	"meros/runner/qemu"
	"meros/runner/ssh"
)

// answerPatience is how long a guest may take to answer on a connection that is
// open.
const answerPatience = time.Second

// keep holds a connection to a machine for as long as it lasts: to ask there
// whether the machine is well is much cheaper than to connect anew, which
// starts a process in the guest.
func (g *Group) keep(machine string, c *cryptossh.Client) {
	if g.inside == nil {
		c.Close()
		return
	}
	if old, ok := g.inside.open.Swap(machine, c); ok {
		old.(*cryptossh.Client).Close()
	}
	go func() {
		c.Wait()
		g.inside.open.CompareAndDelete(machine, c)
	}()
}

// answers asks a machine on the connection that is kept. If that does not
// answer, it is given up.
func (g *Group) answers(machine string) bool {
	if g.inside == nil {
		return false
	}
	v, ok := g.inside.open.Load(machine)
	if !ok {
		return false
	}
	c := v.(*cryptossh.Client)
	answered := make(chan error, 1)
	go func() {
		// sshd(8) knows no such request, and says so.
		_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
		answered <- err
	}()
	select {
	case err := <-answered:
		return err == nil
	case <-time.After(answerPatience):
		c.Close()
		return false
	}
}

// renew opens the connection that is kept, if there is none.
func (g *Group) renew(ctx context.Context, machine string, h *ssh.Host) {
	if g.inside == nil {
		return
	}
	if c, err := h.Connect(context.WithoutCancel(ctx)); err == nil {
		g.keep(machine, c)
	}
}

// monitorPatience is how long QEMU may take to answer.
const monitorPatience = 2 * time.Second

// paused says why a machine stands still, or "" if it does not.
func (g *Group) paused(ctx context.Context, machine string) string {
	ctx, cancel := context.WithTimeout(ctx, monitorPatience)
	defer cancel()
	m, err := qemu.Dial(ctx, g.file(machine, socketFile))
	if err != nil {
		return "" // it is asked something else just now
	}
	defer m.Close()
	switch st, err := m.Commands(ctx).QueryStatus(); {
	case err != nil || st.Running:
		return ""
	case st.Status == raw.RunStateIOError:
		return fmt.Sprintf("the host has no room for what it writes (make room, then meros init %s %s)", g.Name, machine)
	case st.Status == raw.RunStatePaused:
		return fmt.Sprintf("somebody stopped it by its monitor (meros init %s %s lets it go on)", g.Name, machine)
	}
	return ""
}

// resume lets a machine that stands still go on, and tells whether it did.
func (g *Group) resume(ctx context.Context, machine string) (bool, error) {
	if g.paused(ctx, machine) == "" {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, monitorPatience)
	defer cancel()
	m, err := qemu.Dial(ctx, g.file(machine, socketFile))
	if err != nil {
		return false, err
	}
	defer m.Close()
	return true, m.Commands(ctx).Cont()
}
