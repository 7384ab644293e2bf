package report

import (
	"fmt"
	"html"
	"strings"
)

// Plot is one picture.
type Plot struct {
	// Name of the file, Title for readers who do not see it.
	Name, Title, SVG string
}

// Plots of a result: throughput, CPU a call and latency. A plot whose cells were not measured is left out.
func Plots(r *Result) []Plot {
	systems := append([]string{OursName}, Direct...)
	systems = append(systems, FloorName)
	unary := []string{"unary-1", "unary-8", "unary-64"}
	outstanding := func(c *Cell) string { return fmt.Sprintf("%d outstanding", c.Outstanding) }
	var plots []Plot
	add := func(name, title string, bars []barGroup) {
		if len(bars) > 0 {
			plots = append(plots, Plot{name, title, bar(title, systems, bars)})
		}
	}
	add("bench-throughput.svg", "1 KiB unary, 1 Python process: calls per second (more is better)", groups(r, unary, systems, outstanding, Throughput))
	add("bench-cpu.svg", "1 KiB unary, 1 Python process: server CPU a call, µs (less is better)", groups(r, unary, systems, outstanding, ServerCPU))
	var latency []barGroup
	for _, q := range []struct {
		name   string
		metric Metric
	}{{"p50", Median}, {"p99", func(m Measure) float64 { return m.P99 }}, {"p99.9", func(m Measure) float64 { return m.P999 }}} {
		latency = append(latency, groups(r, []string{"open"}, systems, func(*Cell) string { return q.name }, q.metric)...)
	}
	title := "latency, µs (less is better)"
	if c := r.Cell("open"); c != nil {
		title = fmt.Sprintf("1 KiB unary, open loop at %s calls/s: %s", number(c.Rate), title)
	}
	add("bench-latency.svg", title, latency)
	return plots
}

// barGroup is what stands together: one bar a system.
type barGroup struct {
	label string
	bars  map[string]Spread
}

func groups(r *Result, cells, systems []string, label func(*Cell) string, metric Metric) []barGroup {
	var found []barGroup
	for _, id := range cells {
		c := r.Cell(id)
		if c == nil {
			continue
		}
		g := barGroup{label: label(c), bars: map[string]Spread{}}
		for _, s := range systems {
			if spread := c.Of(s, metric); spread.N > 0 {
				g.bars[s] = spread
			}
		}
		found = append(found, g)
	}
	return found
}

// Measures of a plot in pixels.
const (
	plotWidth  = 760
	labelWidth = 110
	valueWidth = 150
	barHeight  = 14
	barGap     = 3
	groupGap   = 14
	headHeight = 34
	legendRow  = 18
)

// colours of the systems, in their order; they can be told apart on white and on black, and by most colour-blind readers.
var colours = []string{"#0072b2", "#e69f00", "#cc79a7", "#d55e00", "#8c8c8c"}

// style follows the reader's choice of light or dark. The paper is part of the picture, so that it can be read where only one of the two is known.
const style = `<style>.paper{fill:#ffffff}text{font:12px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600;font-size:13px}.range{stroke:#1f2328}
@media (prefers-color-scheme:dark){.paper{fill:#0d1117}text{fill:#e6edf3}.range{stroke:#e6edf3}}</style>`

// bar draws horizontal bars with the median as length and the range as a line.
func bar(title string, systems []string, groups []barGroup) string {
	most, used := 0.0, map[string]bool{}
	for _, g := range groups {
		for s, spread := range g.bars {
			most, used[s] = max(most, spread.High), true
		}
	}
	scale := float64(plotWidth-labelWidth-valueWidth) / most
	var body strings.Builder
	y := headHeight
	for _, g := range groups {
		fmt.Fprintf(&body, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", labelWidth-8, y+barHeight-3, html.EscapeString(g.label))
		for i, s := range systems {
			spread, ok := g.bars[s]
			if !ok {
				continue
			}
			middle := y + barHeight/2
			fmt.Fprintf(&body, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", labelWidth, y, spread.Median*scale, barHeight, colours[i])
			fmt.Fprintf(&body, "<line class=\"range\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>\n",
				labelWidth+spread.Low*scale, middle, labelWidth+spread.High*scale, middle)
			fmt.Fprintf(&body, "<text x=\"%.1f\" y=\"%d\">%s</text>\n", labelWidth+spread.High*scale+6, y+barHeight-3, number(spread.Median))
			y += barHeight + barGap
		}
		y += groupGap
	}
	for i, s := range systems {
		if !used[s] {
			continue
		}
		fmt.Fprintf(&body, "<rect x=\"%d\" y=\"%d\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%d\" y=\"%d\">%s</text>\n",
			labelWidth, y, colours[i], labelWidth+18, y+11, html.EscapeString(s))
		y += legendRow
	}
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\">\n%s\n<title>%s</title>\n"+
		"<rect class=\"paper\" width=\"100%%\" height=\"100%%\" rx=\"6\"/>\n<text class=\"title\" x=\"8\" y=\"18\">%s</text>\n%s</svg>\n",
		plotWidth, y+6, plotWidth, y+6, style, html.EscapeString(title), html.EscapeString(title), body.String())
}
