package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"html"
	"os"
	"slices"
	"strings"
)

// Sizes of the chart, in pixels of a drawing that is stretched to the page.
const (
	ganttWidth = 1100
	ganttRow   = 22
	ganttTop   = 24
)

// rows puts what ran into as few rows as there were at one time.
func rows(all []*reportStage) (row map[*reportStage]int, count int) {
	ran := slices.DeleteFunc(slices.Clone(all), func(s *reportStage) bool { return s.Outcome != "ran" && s.Outcome != "failed" })
	slices.SortStableFunc(ran, func(a, b *reportStage) int { return cmp.Compare(a.Start, b.Start) })
	row = make(map[*reportStage]int)
	var free []float64 // when each row's last one ends
	for _, s := range ran {
		i := slices.IndexFunc(free, func(end float64) bool { return end <= s.Start })
		if i < 0 {
			i = len(free)
			free = append(free, 0)
		}
		free[i] = s.Start + s.Seconds
		row[s] = i
	}
	return row, len(free)
}

// gantt draws what ran when. What the build had to wait for has a thick frame.
func gantt(all []*reportStage, total float64) string {
	row, count := rows(all)
	if count == 0 {
		return ""
	}
	for s := range row {
		total = max(total, s.Start+s.Seconds)
	}
	scale := ganttWidth / max(total, 0.001)
	var b strings.Builder
	height := ganttTop + count*ganttRow + 6
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" class="gantt" viewBox="0 0 %d %d" width="100%%" font-family="sans-serif" font-size="11" role="img" aria-label="what ran when">`+"\n", ganttWidth, height)
	step := tick(total)
	for t := 0.0; t <= total; t += step {
		fmt.Fprintf(&b, "<path class=\"tick\" d=\"M%.1f %dV%d\"/><text x=\"%.1f\" y=\"12\">%s</text>\n", t*scale, ganttTop-6, height, t*scale+2, secondsText(t))
	}
	for _, s := range all {
		i, ok := row[s]
		if !ok {
			continue
		}
		class := s.Outcome
		if s.Critical {
			class += " critical"
		}
		x, w, y := s.Start*scale, max(s.Seconds*scale, 1), ganttTop+i*ganttRow
		fmt.Fprintf(&b, "<a href=\"#s%d\"><title>%s: %s</title><rect class=\"%s\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>", s.Index, html.EscapeString(s.Name), secondsText(s.Seconds), class, x, y, w, ganttRow-5)
		if letters := int(w / 6); letters > 4 {
			fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\">%s</text>", x+3, y+12, html.EscapeString(cut(s.Name, letters)))
		}
		b.WriteString("</a>\n")
	}
	return b.String() + "</svg>"
}

// tick is a round number of seconds, some of which fit into total.
func tick(total float64) float64 {
	step := 0.01
	for _, factor := range []float64{2, 2.5, 2, 2, 2.5, 2, 2, 2.5, 2, 2, 2.5, 2, 2, 2.5, 2, 2, 2.5, 2} {
		if total/step <= 10 {
			break
		}
		step *= factor
	}
	return step
}

// traceEvent is one of the "Trace Event Format" of Chrome, times in
// microseconds; Perfetto reads it too.
type traceEvent struct {
	Name     string         `json:"name"`
	Category string         `json:"cat,omitempty"`
	Phase    string         `json:"ph"`
	Time     float64        `json:"ts"`
	Duration float64        `json:"dur,omitempty"`
	Process  int            `json:"pid"`
	Thread   int            `json:"tid"`
	Args     map[string]any `json:"args,omitempty"`
}

func writeTrace(file string, b *buildRecord, mode os.FileMode) error {
	all := b.reportStages()
	row, _ := rows(all)
	events := []traceEvent{{Name: "process_name", Phase: "M", Process: 1, Args: map[string]any{"name": "meros " + b.Verb + " " + b.Name}}}
	for _, s := range all {
		if i, ok := row[s]; ok {
			events = append(events, traceEvent{
				Name: s.Name, Category: s.Stage, Phase: "X", Time: s.Start * 1e6, Duration: s.Seconds * 1e6, Process: 1, Thread: i + 1,
				Args: map[string]any{"key": s.Key, "outcome": s.Outcome, "bytes": s.Bytes, "reason": s.Reason},
			})
		}
	}
	text, err := json.Marshal(map[string]any{"traceEvents": events, "displayTimeUnit": "ms"})
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(text, '\n'), mode); err != nil {
		return fmt.Errorf("write the trace of %s: %w", b.ID, err)
	}
	return nil
}
