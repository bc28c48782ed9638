// This file starts machines and waits until they are ready.

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

	"meros/runner/hint"
	"meros/runner/image"
	"meros/runner/initrd"
	"meros/runner/network"
	"meros/runner/qemu"
	"meros/runner/ssh"
)

// tailLines is the number of lines of a console log that an error shows.
const tailLines = 12

// StartOptions control a start of machines.
type StartOptions struct {
	Timeout time.Duration              // longest time until a machine is ready
	Report  func(machine string)       // called when a machine is ready; may be nil
	Note    func(machine, text string) // called with progress in words
}

// running is a machine with a QEMU process.
type running struct {
	machine *Machine
	record  *record
	host    *ssh.Host
	exited  chan struct{} // closed when QEMU has exited; nil if an earlier request started it
	status  error         // how QEMU ended, valid once exited is closed
	reused  bool          // the disk is that of an earlier run
}

// startAll starts the machines that do not run yet, in parallel, and waits until
// each is ready. A machine that ends before that is an error with the end of its
// console log. A machine that does not become ready in time runs on, so that the
// user can inspect it. If ctx ends, startAll kills the machines that it started.
// The caller holds the group's lock.
func (l *launcher) startAll(ctx context.Context, machines []*Machine, o StartOptions) error {
	var missing []*Machine
	for _, m := range machines {
		if !l.alive(m.Name) {
			missing = append(missing, m)
		}
	}
	if err := checkMemory(missing); err != nil {
		return fmt.Errorf("%s: %w", l.Name, err)
	}
	errs := make([]error, len(machines))
	order := newOrder(machines)
	var wg sync.WaitGroup
	for i, m := range machines {
		wg.Go(func() {
			err := order.wait(ctx, m)
			if err == nil {
				err = l.ensure(ctx, m, o)
			}
			if order.done(m, err); err != nil {
				errs[i] = fmt.Errorf("%s/%s: %w", l.Name, m.Name, err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(errs...)
}

// ensure makes one machine run, and waits until it is ready.
func (l *launcher) ensure(ctx context.Context, m *Machine, o StartOptions) error {
	if err := l.endRunning(ctx, m, o); err != nil {
		return err
	}
	if l.alive(m.Name) {
		r, err := l.readRecord(m.Name)
		if err != nil {
			err = fmt.Errorf("it runs, but its record cannot be read: %w", err)
			return hint.Add(err, "`meros shutdown %s %s`, then `meros init %[1]s %[2]s`, starts it again", l.Name, m.Name)
		}
		if r.Image != filepath.Base(m.Images[0]) {
			o.Note(m.Name, "runs already, from an older image; `meros shutdown`, then `meros init`, boots the new one")
		} else {
			o.Note(m.Name, "runs already")
		}
		if on, err := l.resume(ctx, m.Name); err != nil {
			return fmt.Errorf("resume it: %w", err)
		} else if on {
			o.Note(m.Name, "was paused, and runs again")
		}
		h, err := l.host(m.Name, r.User, r.Port)
		if err != nil {
			return err
		}
		return l.wait(ctx, &running{machine: m, record: r, host: h, reused: true}, o)
	}
	r, err := l.start(ctx, m, func(text string) { o.Note(m.Name, text) })
	if err != nil {
		return err
	}
	o.Note(m.Name, "started, "+r.record.Accel)
	err = l.wait(ctx, r, o)
	if ctx.Err() != nil {
		r.record.kill(unix.SIGKILL)
		<-r.exited
		l.abandon(r)
	}
	return err
}

// endRunning ends the machine if OnRunning asks for that.
func (l *launcher) endRunning(ctx context.Context, m *Machine, o StartOptions) error {
	var d Down
	var err error
	switch m.OnRunning {
	case Keep:
		return nil
	case Restart:
		// A machine that could not start again must not go down.
		reused, err := l.reusesDisk(m)
		if err == nil && !reused && l.alive(m.Name) {
			err = errors.New("it runs, but its record or its disk is gone, so a restart would lose its writes")
			err = hint.Add(err, "`meros shutdown %s %s`, then `meros init %[1]s %[2]s`, starts it from its image", l.Name, m.Name)
		}
		if err != nil {
			return err
		}
		if d, err = l.end(ctx, m.Name, downTimeout); err != nil {
			return err
		}
		l.awaitEnd(m.Name) // its end is written to the record, which stays
	case Reset:
		// Its disk is discarded, so it need not end gently.
		if d, err = l.shutdown(ctx, m.Name, 0); err == nil {
			err = l.reset(m)
		}
	}
	if err == nil && d.Method != "" {
		o.Note(m.Name, fmt.Sprintf("is down (%s, %.1f s)", d.Method, d.Took.Seconds()))
	}
	return err
}

// reusesDisk reports whether the machine has the disk of a run that was not shut down.
// A disk of another image than the machine starts from is an error: it may hold
// data that the user wants.
func (l *launcher) reusesDisk(m *Machine) (bool, error) {
	r, err := l.readRecord(m.Name)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		err = fmt.Errorf("cannot tell which image its disk belongs to: %w", err)
		return false, hint.Add(err, "`meros shutdown %s %s` discards the disk", l.Name, m.Name)
	}
	if _, err := os.Lstat(l.file(m.Name, diskFile)); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	if r.Image != filepath.Base(m.Images[0]) {
		err := errors.New("its disk belongs to an older image")
		err = hint.Add(err, "with the files or the --use of its last run, `meros init` continues with that disk")
		return false, hint.Add(err, "`meros shutdown %s %s` discards the disk and no other; `meros init` then boots the new image", l.Name, m.Name)
	}
	return true, nil
}

// downTimeout limits each of the gentle methods to end a machine that is
// restarted.
const downTimeout = time.Minute

// start prepares the machine's directory and starts QEMU.
func (l *launcher) start(ctx context.Context, m *Machine, note func(string)) (*running, error) {
	accel, why, err := qemu.HostAccel(ctx, string(m.KVM), m.Arch, m.CPUs)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(l.dir(m.Name), 0o700); err != nil {
		return nil, err
	}
	lock, err := openLock(l.file(m.Name, lockFile))
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if ok, err := tryLock(lock); err != nil || !ok {
		return nil, errors.Join(err, errors.New("another process holds its lock: it runs or is being started"))
	}
	reused, err := l.reusesDisk(m)
	if err != nil {
		return nil, err
	}
	if reused && m.OnRunning == Keep {
		note(fmt.Sprintf("starts with the disk of its last run, which was not shut down; `meros shutdown %s %s` discards it", l.Name, m.Name))
	}
	if err := l.tidy(m.Name, reused); err != nil {
		return nil, err
	}
	r, err := l.startLocked(ctx, m, accel, lock, note)
	if err != nil {
		return nil, errors.Join(err, l.tidy(m.Name, reused))
	}
	r.reused, r.record.Accel = reused, why
	return r, l.updateRecord(m.Name, r.record.PID, func(now *record) { now.Accel = why })
}

func (l *launcher) startLocked(ctx context.Context, m *Machine, accel []string, lock *os.File, note func(string)) (*running, error) {
	host, err := l.host(m.Name, m.User, 0)
	if err != nil {
		return nil, err
	}
	if err := l.prepare(ctx, m, host, note); err != nil {
		return nil, err
	}
	// Another program may take the free port before QEMU does.
	for attempt := 0; ; attempt++ {
		r, err := l.launch(ctx, m, host, accel, lock)
		if err != nil && attempt < 5 && strings.Contains(err.Error(), "host forwarding rule") {
			continue
		}
		return r, err
	}
}

// abandon removes the files of a failed start. A disk that an earlier run left
// stays for the next start.
func (l *launcher) abandon(r *running) error { return l.tidy(r.machine.Name, r.reused) }

// tidy is [Group.tidy] while no record is being written.
func (l *launcher) tidy(machine string, keepDisk bool) error {
	l.records.Lock()
	defer l.records.Unlock()
	return l.Group.tidy(machine, keepDisk)
}

// tidy removes the files of an ended run, except the console log. keepDisk
// retains the disk together with the record, which names the disk's image.
func (g *Group) tidy(machine string, keepDisk bool) error {
	files := []string{initrdFile, socketFile, serialFile, bulkFile, bulkLock, screenFile, controlFile, knownFile, pidFile}
	if !keepDisk {
		// The record goes last: without it no command would look for the rest.
		files = append(files, diskFile, recordFile)
	}
	for _, f := range files {
		if err := os.Remove(g.file(machine, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// prepare makes the missing disks of the machine, and its initrd.
func (l *launcher) prepare(ctx context.Context, m *Machine, h *ssh.Host, note func(string)) error {
	disk, err := os.OpenFile(l.file(m.Name, diskFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	fresh := err == nil
	if fresh {
		err = errors.Join(image.Overlay(disk, m.Images[0]), disk.Close())
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for _, d := range m.Disks {
		if err := l.prepareDisk(ctx, m, d, fresh, note); err != nil {
			return fmt.Errorf("disk %s: %w", d.Label, err)
		}
	}
	files, err := l.secrets(m, h)
	if err != nil {
		return err
	}
	if err := initrd.WriteRun(l.file(m.Name, initrdFile), m.Initrd, files); err != nil {
		return fmt.Errorf("write its initrd: %w", err)
	}
	if err := os.WriteFile(l.file(m.Name, knownFile), h.KnownHost(), 0o600); err != nil {
		return err
	}
	return os.WriteFile(l.Console(m.Name), nil, 0o600)
}

// launch starts QEMU and waits until its monitor answers or it has ended.
func (l *launcher) launch(ctx context.Context, m *Machine, h *ssh.Host, accel []string, lock *os.File) (*running, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	argv, err := l.argv(m, accel, port)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(l.file(m.Name, qemuLogFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = l.dir(m.Name), log, log
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
	stop, err := l.share(m)
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
			return nil, hint.Add(fmt.Errorf("%s is not installed", argv[0]), "Debian: `apt install qemu-system`; or run `./dist-conf.sh`")
		}
		return nil, err
	}
	r := &running{machine: m, exited: make(chan struct{}), record: &record{
		PID: cmd.Process.Pid, Boot: bootID(), Port: port, User: m.User, Started: started, Image: filepath.Base(m.Images[0]), Files: m.files(), Arch: m.Arch, Memory: m.Memory, CPUs: m.CPUs,
	}}
	host := *h
	host.Address = fmt.Sprintf("127.0.0.1:%d", port)
	r.host = &host
	// Until this process waits for its child, the pid cannot be reused.
	r.record.Start, err = processStart(r.record.PID)
	if err == nil {
		r.record.HostPID, err = l.hostPID(r.record.PID)
	}
	if err == nil {
		l.records.Lock() // the end of its last run may be being written
		err = l.writeRecord(m.Name, r.record)
		l.records.Unlock()
	}
	stopShares := stop
	stop = nil // from here on the servers end with the machine
	l.ends.Store(m.Name, r.exited)
	go func() {
		r.status = cmd.Wait()
		stopShares()
		l.ended(m.Name, r)
		close(r.exited)
		select {
		case l.idle <- struct{}{}:
		default: // a value is waiting already
		}
	}()
	if err == nil {
		err = l.greet(ctx, r)
	}
	if err != nil {
		cmd.Process.Kill()
		<-r.exited
	}
	return r, err
}

// greet waits until the machine's monitor answers. By then QEMU has accepted all
// its arguments.
func (l *launcher) greet(ctx context.Context, r *running) error {
	for {
		mon, err := qemu.Dial(ctx, l.file(r.machine.Name, socketFile))
		if err == nil {
			return mon.Close()
		}
		select {
		case <-r.exited:
			text := strings.Join(consoleTail(l.file(r.machine.Name, qemuLogFile), 5), "; ")
			err := fmt.Errorf("QEMU ended at once: %v: %s", r.status, text)
			if old := qemu.TooOld(ctx, "qemu-system-"+r.machine.Arch); old != "" {
				err = hint.Add(err, "%s", old)
			}
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ended records how a machine's process ended. It does nothing if the record has
// been removed.
func (l *launcher) ended(machine string, r *running) {
	l.updateRecord(machine, r.record.PID, func(now *record) {
		if now.Exit = exitOK; r.status != nil {
			now.Exit = r.status.Error()
		}
	})
}

// awaitEnd waits until the end of a machine without a process is recorded. The
// process releases its lock a moment before.
func (l *launcher) awaitEnd(machine string) {
	if ended, ok := l.ends.Load(machine); ok && !l.alive(machine) {
		select {
		case <-ended.(chan struct{}):
		case <-time.After(10 * time.Second): // its lock file was removed, and it still runs
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

// wait tries to log in and to pass the probes until both work.
func (l *launcher) wait(ctx context.Context, r *running, o StartOptions) error {
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, errTimeout)
	defer cancel()
	var last error
	for {
		c, err := r.host.Try(ctx, greetWait(time.Since(r.record.Started)))
		if err == nil {
			l.retain(r.machine.Name, c)
			err = l.probes(ctx, r)
		}
		if err == nil {
			r.record.Ready = time.Since(r.record.Started).Seconds()
			if o.Report != nil {
				o.Report(r.machine.Name)
			}
			return l.updateRecord(r.machine.Name, r.record.PID, func(now *record) { now.Ready = r.record.Ready })
		}
		if errors.Is(err, ssh.ErrHostKey) {
			return err
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-r.exited:
			return l.died(r)
		case <-ctx.Done():
			if context.Cause(ctx) != errTimeout {
				return context.Cause(ctx)
			}
			return l.withConsole(r.machine.Name, notReady(o.Timeout, last))
		case <-time.After(100 * time.Millisecond):
		}
		if r.exited == nil && !l.alive(r.machine.Name) {
			return l.died(r)
		}
	}
}

// greetWait returns the time limit of the guest's greeting for one of many login
// attempts. It grows with the age of the machine, because a slow guest needs more
// than a second.
func greetWait(age time.Duration) time.Duration {
	return max(time.Second, min(age/10, 10*time.Second))
}

// probeError is the failure of a probe on a machine that accepts logins.
type probeError struct{ error }

func notReady(timeout time.Duration, last error) error {
	const next = "the machine still runs; --wait gives it more time"
	if errors.As(last, new(probeError)) {
		return hint.Add(fmt.Errorf("ssh answers, but the machine is not ready after %v: %w", timeout, last), next)
	}
	if last == nil {
		last = errors.New("the first attempt is still under way")
	}
	err := hint.Add(fmt.Errorf("ssh does not answer after %v: %w", timeout, last), "if openssh-server is not among its packages, add it")
	return hint.Add(err, next)
}

// probes tries all probes of the manifest once.
func (l *launcher) probes(ctx context.Context, r *running) error {
	for _, p := range r.machine.Ready {
		if err := l.probe(ctx, r, p); err != nil {
			return probeError{fmt.Errorf("%s: %w", probeName(p), err)}
		}
	}
	return nil
}

var errTimeout = errors.New("timeout")

// died explains the end of a machine that was starting, and removes its files.
func (l *launcher) died(r *running) error {
	why := "the machine ended before the first login"
	if r.status != nil {
		why = fmt.Sprintf("QEMU ended before the first login: %v: %s", r.status, strings.Join(consoleTail(l.file(r.machine.Name, qemuLogFile), 5), "; "))
	}
	err := l.withConsole(r.machine.Name, errors.New(why))
	return errors.Join(err, l.abandon(r))
}

// withConsole adds the end of a machine's console log to an error.
func (g *Group) withConsole(machine string, err error) error {
	tail := consoleTail(g.Console(machine), tailLines)
	if len(tail) == 0 {
		return fmt.Errorf("%w; its console log is empty", err)
	}
	return fmt.Errorf("%w; the end of %s:\n  | %s", err, g.Console(machine), strings.Join(tail, "\n  | "))
}
