// This file formats numbers, times and sizes for people, and reads those that a user
// gives.

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"meros/constellations"
	"meros/runner"
	"meros/runner/hint"
)

// counted returns a number and its noun, which it gives a plural s unless n is 1.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// seconds formats a duration in seconds, with three or four digits.
func seconds(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d < 100*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

// secondsText formats a number of seconds.
func secondsText(s float64) string { return seconds(time.Duration(s * float64(time.Second))) }

// bytesText formats a size in the decimal units of SI.
func bytesText(n int64) string {
	f := float64(n)
	for _, u := range []string{"B", "kB", "MB", "GB"} {
		if f < 1000 {
			if u == "B" || f >= 100 {
				return fmt.Sprintf("%.0f %s", f, u)
			}
			return fmt.Sprintf("%.1f %s", f, u)
		}
		f /= 1000
	}
	return fmt.Sprintf("%.1f TB", f)
}

// ago formats how long ago a time was.
func ago(t time.Time) string {
	d := time.Since(t)
	switch {
	case t.Unix() <= 1:
		return "never used"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// printable replaces control characters, which could make a terminal do things.
func printable(s string) string { return runner.Printable(s) }

// byteSize is a size on the command line, see [constellations.ParseSize].
type byteSize int64

// String returns the size as UnmarshalText reads it.
func (b byteSize) String() string { return fmt.Sprintf("%dB", int64(b)) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *byteSize) UnmarshalText(text []byte) error {
	n, err := constellations.ParseSize(strings.TrimSpace(string(text)), 1)
	if err != nil {
		return hint.Add(err, "write a size such as 20G or 500M")
	}
	*b = byteSize(n)
	return nil
}

// age is a duration on the command line: as for [time.ParseDuration], or in days (d)
// or weeks (w).
type age time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *age) UnmarshalText(text []byte) error {
	s := string(text)
	for unit, d := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			if f, err := strconv.ParseFloat(n, 64); err == nil && f >= 0 && f < 36500 {
				*a = age(f * float64(d))
				return nil
			}
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return hint.Add(fmt.Errorf("%q is not an age", text), "write an age such as 30d, 2w or 12h")
	}
	*a = age(d)
	return nil
}

// joined joins the parts that are not empty.
func joined(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}

// fit cuts a line for a terminal. It takes each letter for one cell.
func fit(s string, width int) string {
	if r := []rune(s); len(r) > width-1 {
		s = string(r[:max(width-1, 0)])
	}
	return s
}
