// This file asks machines whether they still run and answer.

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

// answerTimeout is how long a guest may take to answer on a connection that is
// open.
const answerTimeout = time.Second

// keep holds a connection to a machine for as long as it lasts: to ask there
// whether the machine is well is much cheaper than to connect anew, which
// starts a process in the guest.
func (l *launcher) keep(machine string, c *cryptossh.Client) {
	if old, ok := l.open.Swap(machine, c); ok {
		old.(*cryptossh.Client).Close()
	}
	go func() {
		c.Wait()
		l.open.CompareAndDelete(machine, c)
	}()
}

// answers asks a machine on the connection that is kept. If that does not
// answer, it is given up.
func (l *launcher) answers(machine string) bool {
	v, ok := l.open.Load(machine)
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
	case <-time.After(answerTimeout):
		c.Close()
		return false
	}
}

// renew opens the connection that is kept, if there is none.
func (l *launcher) renew(ctx context.Context, machine string, h *ssh.Host) {
	if c, err := h.Connect(context.WithoutCancel(ctx)); err == nil {
		l.keep(machine, c)
	}
}

// monitorTimeout is how long QEMU may take to answer.
const monitorTimeout = 2 * time.Second

// paused says why a machine stands still, or "" if it does not.
func (g *Group) paused(ctx context.Context, machine string) string {
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
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
func (l *launcher) resume(ctx context.Context, machine string) (bool, error) {
	if l.paused(ctx, machine) == "" {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	m, err := qemu.Dial(ctx, l.file(machine, socketFile))
	if err != nil {
		return false, err
	}
	defer m.Close()
	return true, m.Commands(ctx).Cont()
}
