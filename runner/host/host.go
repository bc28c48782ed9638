// Package host reads from proc(5) what this host and its processes use. It
// changes nothing, and keeps no history but the last reading of a meter.
package host

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// MemoryAvailable returns the bytes that can be used without swapping,
// proc_meminfo(5), or 0 if that is unknown.
func MemoryAvailable() int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// CPUMeter measures how busy the processors are, proc_stat(5).
type CPUMeter struct {
	at          time.Time
	idle, total float64
	percent     int
	known       bool
}

// meterTime is how long the meter measures before it has an answer.
const meterTime = time.Second

// Busy returns the load of all processors in percent, and whether it is known.
func (c *CPUMeter) Busy(now time.Time) (percent int, ok bool) {
	if now.Sub(c.at) < meterTime {
		return c.percent, c.known
	}
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(b), "\n")
	var idle, total float64
	for i, f := range strings.Fields(strings.TrimPrefix(line, "cpu")) {
		var v float64
		fmt.Sscan(f, &v)
		if i == 3 || i == 4 { // idle, and waiting for a disk
			idle += v
		}
		if i < 8 { // the time of guests is part of the time of users
			total += v
		}
	}
	if c.total > 0 && total > c.total {
		c.percent, c.known = int(100*(1-(idle-c.idle)/(total-c.total))+0.5), true
	}
	c.at, c.idle, c.total = now, idle, total
	return c.percent, c.known
}

// Usage is what a process has used of the host up to a moment.
type Usage struct {
	At            time.Time
	CPU           float64 // seconds of processors
	Memory        int64   // resident bytes
	Read, Written int64   // bytes of disks; 0 if they are another user's secret
}

// UsageOf reads proc_pid_stat(5) and proc_pid_io(5).
func UsageOf(pid int) (Usage, error) {
	u := Usage{At: time.Now()}
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return u, err
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(f) < 22 {
		return u, fmt.Errorf("%sstat is too short", dir)
	}
	number := func(s string) float64 { n, _ := strconv.ParseFloat(s, 64); return n }
	const ticks = 100 // USER_HZ is the same on all architectures that QEMU runs on
	u.CPU = (number(f[11]) + number(f[12])) / ticks
	u.Memory = int64(number(f[21])) * int64(os.Getpagesize())
	io, err := os.ReadFile(dir + "io") // of another user's process, only root may read it
	if err != nil {
		return u, nil
	}
	for line := range strings.Lines(string(io)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "read_bytes":
			u.Read = int64(number(value))
		case "write_bytes":
			u.Written = int64(number(value))
		}
	}
	return u, nil
}
