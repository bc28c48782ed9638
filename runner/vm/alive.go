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

// answerTimeout is the longest time for a guest's response on an open connection.
const answerTimeout = time.Second

// retain keeps a connection until it breaks. A request on an open connection is
// much cheaper than a login, which starts a process in the guest.
func (l *launcher) retain(machine string, c *cryptossh.Client) {
	if old, ok := l.open.Swap(machine, c); ok {
		old.(*cryptossh.Client).Close()
	}
	go func() {
		c.Wait()
		l.open.CompareAndDelete(machine, c)
	}()
}

// answers reports whether a machine responds on its open connection. It closes a
// connection without a response.
func (l *launcher) answers(machine string) bool {
	v, ok := l.open.Load(machine)
	if !ok {
		return false
	}
	c := v.(*cryptossh.Client)
	answered := make(chan error, 1)
	go func() {
		// sshd(8) does not know this request, and answers that.
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

// renew logs in again and retains the connection.
func (l *launcher) renew(ctx context.Context, machine string, h *ssh.Host) {
	if c, err := h.Connect(context.WithoutCancel(ctx)); err == nil {
		l.retain(machine, c)
	}
}

// monitorTimeout is the longest time for QEMU's responses.
const monitorTimeout = 2 * time.Second

// paused returns why a machine is paused and how to resume it. Both are "" if it
// runs.
func (g *Group) paused(ctx context.Context, machine string) (why, next string) {
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	m, err := qemu.Dial(ctx, g.file(machine, socketFile))
	if err != nil {
		return "", "" // another process uses the monitor
	}
	defer m.Close()
	switch st, err := m.Commands(ctx).QueryStatus(); {
	case err != nil || st.Running:
		return "", ""
	case st.Status == raw.RunStateIOError:
		return "the host has no free space for its writes", fmt.Sprintf("free some space, then `meros init %s %s` resumes it", g.Name, machine)
	case st.Status == raw.RunStatePaused:
		return "it was paused through its monitor", fmt.Sprintf("`meros init %s %s` resumes it", g.Name, machine)
	}
	return "", ""
}

// resume continues a paused machine. It reports whether the machine was paused.
func (l *launcher) resume(ctx context.Context, machine string) (bool, error) {
	if why, _ := l.paused(ctx, machine); why == "" {
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
