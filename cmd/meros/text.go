package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"meros/constellations"
	"meros/runner"
)

func seconds(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d < 100*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

func secondsText(s float64) string { return seconds(time.Duration(s * float64(time.Second))) }

// bytesText is a size in the decimal units of SI.
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

// ago is how long ago something was.
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

// cut shortens a text in its middle to that many letters.
func cut(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n/2]) + "…" + string(r[len(r)-n/2+1:])
}

// printable replaces what could make a terminal do things.
func printable(s string) string { return runner.Printable(s) }

// byteSize is a size that a user gives, see [constellations.ParseSize].
type byteSize int64

// String returns the size as UnmarshalText reads it.
func (b byteSize) String() string { return fmt.Sprintf("%dB", int64(b)) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *byteSize) UnmarshalText(text []byte) error {
	n, err := constellations.ParseSize(strings.TrimSpace(string(text)), 1)
	if err != nil {
		return fmt.Errorf("%w (such as 20G or 500M)", err)
	}
	*b = byteSize(n)
	return nil
}

// age is a duration that a user gives: as of time.ParseDuration, or in days or
// weeks.
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
		return fmt.Errorf("%q is no age (such as 30d, 2w or 12h)", text)
	}
	*a = age(d)
	return nil
}

func joined(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}

// fit cuts a line, of one cell for each letter, for a terminal.
func fit(s string, width int) string {
	if r := []rune(s); len(r) > width-1 {
		s = string(r[:max(width-1, 0)])
	}
	return s
}
