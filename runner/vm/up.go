package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner/image"
	"meros/runner/initrd"
	"meros/runner/network"
	"meros/runner/qemu"
	"meros/runner/ssh"
)

// tailLines is how much of a console log an error shows.
const tailLines = 12

// UpOptions are how machines are brought up.
type UpOptions struct {
	Patience time.Duration        // how long a machine may take until ssh answers
	Report   func(machine string) // called when one is there; may be nil
	Note     func(machine, text string)
}

// running is a machine whose QEMU this process has started.
type running struct {
	machine *Machine
	record  *record
	host    *ssh.Host
	exited  chan struct{}
	status  error // valid when exited is closed
	kept    bool  // its disk is that of an earlier run
}

// Up starts those of the machines that do not run, all at once, and waits
// until each can be logged in to. A machine that dies on the way is an error
// with the end of its console log; one that does not answer in time is left
// as it is, to be looked at. If ctx ends, what was started is stopped. The
// caller holds the group's lock.
func (g *Group) Up(ctx context.Context, machines []*Machine, o UpOptions) error {
	var missing []*Machine
	for _, m := range machines {
		if !g.alive(m.Name) {
			missing = append(missing, m)
		}
	}
	if err := checkMemory(missing); err != nil {
		return fmt.Errorf("%s: %w", g.Name, err)
	}
	errs := make([]error, len(machines))
	order := newOrder(machines)
	var wg sync.WaitGroup
	for i, m := range machines {
		wg.Go(func() {
			err := order.wait(ctx, m)
			if err == nil {
				err = g.up(ctx, m, o)
			}
			if order.done(m, err); err != nil {
				errs[i] = fmt.Errorf("%s/%s: %w", g.Name, m.Name, err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(errs...)
}

func (g *Group) up(ctx context.Context, m *Machine, o UpOptions) error {
	if err := g.again(ctx, m, o); err != nil {
		return err
	}
	if g.alive(m.Name) {
		r, err := g.readRecord(m.Name)
		if err != nil {
			return fmt.Errorf("it runs, but its record cannot be read: %w (meros shutdown %s %s, then init)", err, g.Name, m.Name)
		}
		if r.Image != filepath.Base(m.Images[0]) {
			o.Note(m.Name, "runs already, from an older image (meros shutdown, then init, boots the new one)")
		} else {
			o.Note(m.Name, "runs already")
		}
		if on, err := g.resume(ctx, m.Name); err != nil {
			return fmt.Errorf("it stands still, and does not go on: %w", err)
		} else if on {
			o.Note(m.Name, "stood still, and goes on")
		}
		h, err := g.host(m.Name, r.User, r.Port)
		if err != nil {
			return err
		}
		return g.wait(ctx, &running{machine: m, record: r, host: h, kept: true}, o)
	}
	r, err := g.start(ctx, m, func(text string) { o.Note(m.Name, text) })
	if err != nil {
		return err
	}
	o.Note(m.Name, "started, "+r.record.Accel)
	err = g.wait(ctx, r, o)
	if ctx.Err() != nil {
		r.record.kill(unix.SIGKILL)
		<-r.exited
		g.abandon(r)
	}
	return err
}

// again ends the machine if it is to be started anew.
func (g *Group) again(ctx context.Context, m *Machine, o UpOptions) error {
	var d Down
	var err error
	switch m.Again {
	case Leave:
		return nil
	case Restart:
		// Asked before it goes down for nothing.
		kept, err := g.keeps(m)
		if err == nil && !kept && g.alive(m.Name) {
			err = fmt.Errorf("it runs, but its record or its disk is gone: what it wrote would be lost (meros shutdown %s %s, then init, starts it from its image)", g.Name, m.Name)
		}
		if err != nil {
			return err
		}
		if d, err = g.end(ctx, m.Name, downPatience); err != nil {
			return err
		}
		g.awaitEnd(m.Name) // that is written down in the record that stays
	case Reset:
		// Nothing that it would still write is kept.
		if d, err = g.shutdown(ctx, m.Name, 0); err == nil {
			err = g.reset(m)
		}
	}
	if err == nil && d.Way != "" {
		o.Note(m.Name, fmt.Sprintf("is down (%s, %.1f s)", d.Way, d.Took.Seconds()))
	}
	return err
}

// keeps tells whether the machine has the disk of a run that nobody has shut
// down. One that is of another image than it is to start from is an error: it
// may hold what its user wants.
func (g *Group) keeps(m *Machine) (bool, error) {
	r, err := g.readRecord(m.Name)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("whether its disk is to be kept cannot be told: %w (meros shutdown %s %s drops it)", err, g.Name, m.Name)
	}
	if _, err := os.Lstat(g.file(m.Name, diskFile)); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	if r.Image != filepath.Base(m.Images[0]) {
		return false, fmt.Errorf("the disk of its last run is of another image than the one that is built now (meros shutdown %s %s drops that disk and no other, and init starts from the new one; with the files, or the --use, of that run it goes on)", g.Name, m.Name)
	}
	return true, nil
}

// downPatience is how long a machine that is started again may take to go down
// by each of the gentle ways.
const downPatience = time.Minute

// start prepares the machine's directory and starts QEMU.
func (g *Group) start(ctx context.Context, m *Machine, note func(string)) (*running, error) {
	accel, why, err := qemu.HostAccel(ctx, string(m.KVM), m.Arch, m.CPUs)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(g.dir(m.Name), 0o700); err != nil {
		return nil, err
	}
	lock, err := openLock(g.file(m.Name, lockFile))
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if ok, err := tryLock(lock); err != nil || !ok {
		return nil, errors.Join(err, errors.New("its lock is held: it runs, or is being started"))
	}
	kept, err := g.keeps(m)
	if err != nil {
		return nil, err
	}
	if kept && m.Again == Leave {
		note(fmt.Sprintf("starts with the disk of its last run, which was not shut down (meros shutdown %s %s drops it)", g.Name, m.Name))
	}
	if err := g.tidy(m.Name, kept); err != nil {
		return nil, err
	}
	r, err := g.startLocked(ctx, m, accel, lock, note)
	if err != nil {
		return nil, errors.Join(err, g.tidy(m.Name, kept))
	}
	r.kept, r.record.Accel = kept, why
	return r, g.updateRecord(m.Name, r.record.PID, func(now *record) { now.Accel = why })
}

func (g *Group) startLocked(ctx context.Context, m *Machine, accel []string, lock *os.File, note func(string)) (*running, error) {
	host, err := g.host(m.Name, m.User, 0)
	if err != nil {
		return nil, err
	}
	if err := g.prepare(ctx, m, host, note); err != nil {
		return nil, err
	}
	// A port that was free may be taken before QEMU has it.
	for attempt := 0; ; attempt++ {
		r, err := g.launch(ctx, m, host, accel, lock)
		if err != nil && attempt < 5 && strings.Contains(err.Error(), "host forwarding rule") {
			continue
		}
		return r, err
	}
}

// clear removes what an ended run left, except the console log.
func (g *Group) clear(machine string) error { return g.tidy(machine, false) }

// abandon removes what is left of a start: all of it, but for a disk that was
// there before, which the next start finds.
func (g *Group) abandon(r *running) error { return g.tidy(r.machine.Name, r.kept) }

// tidy is [Group.clear], or does not touch the disk and the record, by which it
// is known of what it is.
func (g *Group) tidy(machine string, keep bool) error {
	g.records.Lock()
	defer g.records.Unlock()
	files := []string{initrdFile, socketFile, serialFile, bulkFile, bulkLock, screenFile, controlFile, knownFile, pidFile}
	if !keep {
		// The record last: without it nobody would look for the rest.
		files = append(files, diskFile, recordFile)
	}
	for _, f := range files {
		if err := os.Remove(g.file(machine, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// prepare makes the machine's own disk and initrd.
func (g *Group) prepare(ctx context.Context, m *Machine, h *ssh.Host, note func(string)) error {
	disk, err := os.OpenFile(g.file(m.Name, diskFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	fresh := err == nil
	if fresh {
		err = errors.Join(image.Overlay(disk, m.Images[0]), disk.Close())
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for _, d := range m.Disks {
		if err := g.prepareDisk(ctx, m, d, fresh, note); err != nil {
			return fmt.Errorf("disk %s: %w", d.Label, err)
		}
	}
	files, err := g.secrets(m, h)
	if err != nil {
		return err
	}
	if err := initrd.WriteRun(g.file(m.Name, initrdFile), m.Initrd, files); err != nil {
		return fmt.Errorf("write its initrd: %w", err)
	}
	if err := os.WriteFile(g.file(m.Name, knownFile), h.KnownHost(), 0o600); err != nil {
		return err
	}
	return os.WriteFile(g.Console(m.Name), nil, 0o600)
}

// launch starts QEMU and waits until it speaks, or has ended.
func (g *Group) launch(ctx context.Context, m *Machine, h *ssh.Host, accel []string, lock *os.File) (*running, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	argv, err := g.argv(m, accel, port)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(g.file(m.Name, qemuLogFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = g.dir(m.Name), log, log
	cmd.ExtraFiles = []*os.File{lock}
	for _, n := range m.NICs {
		tap, err := network.OpenTap(n.Tap)
		if err != nil {
			return nil, err
		}
		defer tap.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, tap)
	}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	stop, err := g.share(m)
	if err != nil {
		return nil, err
	}
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	started := time.Now()
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("%s is not installed (Debian: apt install qemu-system; or run ./dist-conf.sh)", argv[0])
		}
		return nil, err
	}
	r := &running{machine: m, exited: make(chan struct{}), record: &record{
		PID: cmd.Process.Pid, Boot: bootID(), Port: port, User: m.User, Started: started, Image: filepath.Base(m.Images[0]), Files: m.files(), Arch: m.Arch, Memory: m.Memory, CPUs: m.CPUs,
	}}
	host := *h
	host.Address = fmt.Sprintf("127.0.0.1:%d", port)
	r.host = &host
	// While it is a child that nobody has waited for, the pid is its own.
	r.record.Start, err = processStart(r.record.PID)
	if err == nil && g.inside != nil {
		r.record.HostPID, err = g.inside.hostPID(r.record.PID)
	}
	if err == nil {
		g.records.Lock() // the end of its last run may be written down just now
		err = g.writeRecord(m.Name, r.record)
		g.records.Unlock()
	}
	stopShares := stop
	stop = nil // from here on they end with the machine
	g.ends.Store(m.Name, r.exited)
	go func() {
		r.status = cmd.Wait()
		stopShares()
		g.ended(m.Name, r)
		close(r.exited)
		if g.inside != nil {
			select {
			case g.inside.idle <- struct{}{}:
			default: // it is to look already
			}
		}
	}()
	if err == nil {
		err = g.greet(ctx, r)
	}
	if err != nil {
		cmd.Process.Kill()
		<-r.exited
	}
	return r, err
}

// greet waits until the machine's monitor answers: QEMU has then accepted all
// its arguments.
func (g *Group) greet(ctx context.Context, r *running) error {
	for {
		mon, err := qemu.Dial(ctx, g.file(r.machine.Name, socketFile))
		if err == nil {
			return mon.Close()
		}
		select {
		case <-r.exited:
			text := strings.Join(consoleTail(g.file(r.machine.Name, qemuLogFile), 5), "; ")
			return fmt.Errorf("QEMU ended at once: %v: %s%s", r.status, text, qemu.TooOld(ctx, "qemu-system-"+r.machine.Arch))
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ended writes down how a machine's process ended. Whoever has cleared the
// machine's directory meanwhile knows already.
func (g *Group) ended(machine string, r *running) {
	g.updateRecord(machine, r.record.PID, func(now *record) {
		if now.Exit = exitOK; r.status != nil {
			now.Exit = r.status.Error()
		}
	})
}

// awaitEnd waits until the end of a machine whose process is gone is written
// down: the process gives up its lock a moment before.
func (g *Group) awaitEnd(machine string) {
	if ended, ok := g.ends.Load(machine); ok && !g.alive(machine) {
		select {
		case <-ended.(chan struct{}):
		case <-time.After(10 * time.Second): // it runs, and its lock file was removed by somebody
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// wait tries to log in until that works.
func (g *Group) wait(ctx context.Context, r *running, o UpOptions) error {
	ctx, cancel := context.WithTimeoutCause(ctx, o.Patience, errPatience)
	defer cancel()
	var last error
	for {
		c, err := r.host.Try(ctx, greetWait(time.Since(r.record.Started)))
		if err == nil {
			g.keep(r.machine.Name, c)
			err = g.probes(ctx, r)
		}
		if err == nil {
			r.record.Ready = time.Since(r.record.Started).Seconds()
			if o.Report != nil {
				o.Report(r.machine.Name)
			}
			return g.updateRecord(r.machine.Name, r.record.PID, func(now *record) { now.Ready = r.record.Ready })
		}
		if errors.Is(err, ssh.ErrHostKey) {
			return err
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-r.exited:
			return g.died(r)
		case <-ctx.Done():
			if context.Cause(ctx) != errPatience {
				return context.Cause(ctx)
			}
			return g.withConsole(r.machine.Name, notReady(o.Patience, last))
		case <-time.After(100 * time.Millisecond):
		}
		if r.exited == nil && !g.alive(r.machine.Name) {
			return g.died(r)
		}
	}
}

// greetWait is how long one of many tries to log in waits for the guest's first
// line: a slow guest, which needs longer than a second for it, is old by then.
func greetWait(age time.Duration) time.Duration {
	return max(time.Second, min(age/10, 10*time.Second))
}

// probeError is what a probe of the manifest says of a machine that can be
// logged in to.
type probeError struct{ error }

func notReady(patience time.Duration, last error) error {
	if errors.As(last, new(probeError)) {
		return fmt.Errorf("it can be logged in to, but is not ready after %v: %w (the machine still runs; --wait gives it more time)", patience, last)
	}
	if last == nil {
		last = errors.New("the first attempt is still under way")
	}
	return fmt.Errorf("ssh does not answer after %v: %w (the machine still runs; is openssh-server among its packages? --wait gives it more time)", patience, last)
}

// probes tries all that the manifest asks for.
func (g *Group) probes(ctx context.Context, r *running) error {
	for _, p := range r.machine.Ready {
		if err := g.probe(ctx, r, p); err != nil {
			return probeError{fmt.Errorf("%s: %w", probeName(p), err)}
		}
	}
	return nil
}

var errPatience = errors.New("out of patience")

// died explains the end of a machine that was to come up.
func (g *Group) died(r *running) error {
	why := "the machine ended before it could be logged in to"
	if r.status != nil {
		why = fmt.Sprintf("QEMU ended before the machine could be logged in to: %v: %s", r.status, strings.Join(consoleTail(g.file(r.machine.Name, qemuLogFile), 5), "; "))
	}
	err := g.withConsole(r.machine.Name, errors.New(why))
	return errors.Join(err, g.abandon(r))
}

// withConsole adds the end of the console log to an error.
func (g *Group) withConsole(machine string, err error) error {
	tail := consoleTail(g.Console(machine), tailLines)
	if len(tail) == 0 {
		return fmt.Errorf("%w; its console is empty", err)
	}
	return fmt.Errorf("%w; the end of %s:\n  | %s", err, g.Console(machine), strings.Join(tail, "\n  | "))
}
