// This file reads and writes the state of a machine: its record, its locks and
// its console log.

package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// record holds the facts about a machine's run. The launcher writes it at the
// start and completes it later.
type record struct {
	PID     int       `json:"pid"`
	Start   uint64    `json:"start"`          // start of the process in clock ticks since boot, proc_pid_stat(5)
	Boot    string    `json:"boot_id"`        // boot id of the host, random(4)
	HostPID int       `json:"host_pid"`       // process id in the host's namespace
	Exit    string    `json:"exit,omitempty"` // how the process ended: exitOK or an error
	Port    int       `json:"port"`           // port of 127.0.0.1 that is forwarded to the guest's ssh
	User    string    `json:"user"`
	Started time.Time `json:"started"`
	Ready   float64   `json:"ready_seconds"` // seconds from start to the first login; 0 before that
	Accel   string    `json:"accel"`         // KVM or emulation, with the reason
	Image   string    `json:"image"`         // base name of the image that it booted from
	Files   []string  `json:"files"`         // files that it needs to start again
	Arch    string    `json:"arch"`          // QEMU's name
	Memory  int64     `json:"memory"`
	CPUs    int       `json:"cpus"`
}

// exitOK is the Exit of a machine that was powered off.
const exitOK = "ok"

func (g *Group) readRecord(machine string) (*record, error) {
	b, err := os.ReadFile(g.file(machine, recordFile))
	if err != nil {
		return nil, err
	}
	r := new(record)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w", g.file(machine, recordFile), err)
	}
	return r, nil
}

func (g *Group) writeRecord(machine string, r *record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	file := g.file(machine, recordFile)
	if err := os.WriteFile(file+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// updateRecord changes the record of a machine. It does nothing if the record is
// gone or belongs to another process.
func (l *launcher) updateRecord(machine string, pid int, change func(*record)) error {
	l.records.Lock()
	defer l.records.Unlock()
	r, err := l.readRecord(machine)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || r.PID != pid {
		return err
	}
	change(r)
	return l.writeRecord(machine, r)
}

// openLock opens a lock file. Its locks belong to the open file description,
// F_OFD_SETLK in fcntl(2), so a child that inherits the descriptor holds them too.
func openLock(file string) (*os.File, error) {
	return os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
}

func tryLock(f *os.File) (bool, error) {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, err
}

// waitLock takes a lock. If another process holds it, waitLock calls busy once and
// polls.
func waitLock(ctx context.Context, file string, busy func()) (unlock func(), err error) {
	f, err := openLock(file)
	if err != nil {
		return nil, err
	}
	for {
		ok, err := tryLock(f)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", file, err)
		}
		if ok {
			return func() { f.Close() }, nil
		}
		if busy != nil {
			busy()
			busy = nil
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// alive reports whether the machine's process holds its lock.
func (g *Group) alive(machine string) bool { return locked(g.file(machine, lockFile)) }

// locked reports whether any process holds a lock.
func locked(file string) bool {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l) == nil && l.Type != unix.F_UNLCK
}

// pid returns the process id from QEMU's own pid file, or 0.
func (g *Group) pid(machine string) int {
	b, err := os.ReadFile(g.file(machine, pidFile))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0
	}
	return pid
}

// Machines returns the names of the machines that run or have left files, in
// order. They need not be in the manifest.
func (g *Group) Machines() ([]string, error) {
	entries, err := os.ReadDir(g.State)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if _, rerr := os.Lstat(g.file(e.Name(), recordFile)); e.IsDir() && (rerr == nil || g.alive(e.Name())) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Files returns the files that machines need, of all groups below the state
// directory dir. These are the machines that run, and those that will start with
// the disks of their last run.
func Files(dir string) ([]string, error) {
	groups, err := directories(dir)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, g := range groups {
		machines, err := directories(g)
		if err != nil {
			return nil, err
		}
		for _, m := range machines {
			files, err := filesOf(filepath.Join(m, recordFile))
			if err != nil {
				return nil, fmt.Errorf("read the record in %s: %w", m, err)
			}
			all = append(all, files...)
		}
	}
	return all, nil
}

// directories returns the directories in dir, which need not exist.
func directories(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() {
			all = append(all, filepath.Join(dir, e.Name()))
		}
	}
	return all, nil
}

func filesOf(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := new(record)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	return append(r.Files, r.Image), nil
}

// bootID returns the id of this boot of the host.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// processStart returns the time when a process started. Together with the pid, it
// identifies a process within one boot.
func processStart(pid int) (uint64, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold anything; field 22 counts from 1.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	return strconv.ParseUint(string(f[19]), 10, 64)
}

// kill sends a signal to the recorded process, never to another one that reuses
// its id.
func (r *record) kill(sig unix.Signal) error {
	if r.Boot != bootID() {
		return nil
	}
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", r.PID, err)
	}
	defer unix.Close(fd)
	// The descriptor keeps the id from being reused during the check.
	if start, err := processStart(r.PID); err != nil || start != r.Start {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d: %w", r.PID, err)
	}
	return nil
}

// consoleTail returns the last lines of a console log, without control characters
// and escape sequences.
func consoleTail(file string, lines int) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	const most = 16 << 10
	if fi, err := f.Stat(); err == nil && fi.Size() > most {
		f.Seek(fi.Size()-most, 0)
	}
	b := make([]byte, most)
	n, _ := f.Read(b)
	var out []string
	for l := range strings.Lines(string(b[:n])) {
		l = strings.TrimRight(strings.Map(func(r rune) rune {
			if unicode.IsControl(r) && r != '\t' {
				return -1
			}
			return r
		}, stripCSI(l)), " \t")
		if l != "" {
			out = append(out, l)
		}
	}
	return out[max(0, len(out)-lines):]
}

// stripCSI removes the control sequences of ECMA-48, such as colours.
func stripCSI(s string) string {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, "\x1b[")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		s = strings.TrimLeft(after, "0123456789;:<=>? !\"#$%&'()*+,-./")
		if s != "" {
			s = s[1:]
		}
	}
}
