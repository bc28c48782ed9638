// This file draws when each node of a build ran: as SVG, and as a trace for
// Chrome and Perfetto.

package draw

import (
	"cmp"
	"encoding/json"
	"fmt"
	"html"
	"slices"
	"strings"
)

// Bar is a node that ran.
type Bar struct {
	Name, Stage, Outcome string // the outcome is ran or failed
	Start, Seconds       float64
	Critical             bool           // the build had to wait for it
	Anchor               int            // the bar links to #sN of its page
	Args                 map[string]any // further values in a trace
}

// Sizes of the chart, in pixels of a drawing that is stretched to the page.
const (
	chartWidth = 1100
	chartRow   = 22
	chartTop   = 24
)

// rows returns the row of each bar, and how many rows there are: as few as the
// bars need that overlap in time.
func rows(bars []Bar) (row []int, count int) {
	order := make([]int, len(bars))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(bars[a].Start, bars[b].Start) })
	row = make([]int, len(bars))
	var ends []float64 // of the last bar of each row
	for _, i := range order {
		r := slices.IndexFunc(ends, func(end float64) bool { return end <= bars[i].Start })
		if r < 0 {
			r = len(ends)
			ends = append(ends, 0)
		}
		ends[r] = bars[i].Start + bars[i].Seconds
		row[i] = r
	}
	return row, len(ends)
}

// Chart returns a drawing of the bars over time, or "" if there are none. A bar
// that the build had to wait for has a thick frame. total is in seconds.
func Chart(bars []Bar, total float64, text Text) string {
	row, count := rows(bars)
	if count == 0 {
		return ""
	}
	for _, b := range bars {
		total = max(total, b.Start+b.Seconds)
	}
	scale := chartWidth / max(total, 0.001)
	var b strings.Builder
	height := chartTop + count*chartRow + 6
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" class="gantt" viewBox="0 0 %d %d" width="100%%" font-family="sans-serif" font-size="11" role="img" aria-label="what ran when">`+"\n", chartWidth, height)
	step := tick(total)
	for t := 0.0; t <= total; t += step {
		fmt.Fprintf(&b, "<path class=\"tick\" d=\"M%.1f %dV%d\"/><text x=\"%.1f\" y=\"12\">%s</text>\n", t*scale, chartTop-6, height, t*scale+2, text.Seconds(t))
	}
	for i, bar := range bars {
		class := bar.Outcome
		if bar.Critical {
			class += " critical"
		}
		x, w, y := bar.Start*scale, max(bar.Seconds*scale, 1), chartTop+row[i]*chartRow
		fmt.Fprintf(&b, "<a href=\"#s%d\"><title>%s: %s</title><rect class=\"%s\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>", bar.Anchor, html.EscapeString(bar.Name), text.Seconds(bar.Seconds), class, x, y, w, chartRow-5)
		if letters := int(w / 6); letters > 4 {
			fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\">%s</text>", x+3, y+12, html.EscapeString(Cut(bar.Name, letters)))
		}
		b.WriteString("</a>\n")
	}
	return b.String() + "</svg>"
}

// tick returns a round number of seconds, of which at most ten or so fit into
// total.
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

// traceEvent is an event of Chrome's "Trace Event Format", times in microseconds.
// Perfetto reads it too.
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

// Trace returns the bars in the trace format of Chrome and Perfetto.
func Trace(title string, bars []Bar) ([]byte, error) {
	row, _ := rows(bars)
	events := []traceEvent{{Name: "process_name", Phase: "M", Process: 1, Args: map[string]any{"name": title}}}
	for i, b := range bars {
		events = append(events, traceEvent{
			Name: b.Name, Category: b.Stage, Phase: "X", Time: b.Start * 1e6, Duration: b.Seconds * 1e6, Process: 1, Thread: row[i] + 1, Args: b.Args,
		})
	}
	return json.Marshal(map[string]any{"traceEvents": events, "displayTimeUnit": "ms"})
}
