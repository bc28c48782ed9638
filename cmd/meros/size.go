package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"meros/constellations"
)

// byteSize is a size that a user gives, see [constellations.ParseSize].
type byteSize int64

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
