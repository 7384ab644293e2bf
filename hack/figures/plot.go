package main

import (
	"fmt"
	"html"
	"strings"
)

// Measures of the plot in pixels.
const (
	panelWidth  = 380
	panelHeight = 190
	panelMargin = 46
	panelsARow  = 2
)

// plotStyle follows the reader's choice of light or dark.
const plotStyle = `<style>.paper{fill:#ffffff}text{font:11px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600}.axis{stroke:#8c8c8c}
@media (prefers-color-scheme:dark){.paper{fill:#0d1117}text{fill:#e6edf3}}</style>`

// drawCurves draws one panel a curve: both axes start at 0, so that a cost which grows with the number of pools is a straight line.
func drawCurves(curves []curve) string {
	rows := (len(curves) + panelsARow - 1) / panelsARow
	width, height := panelsARow*panelWidth, rows*panelHeight
	var svg strings.Builder
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="cost against the number of pools">`+"\n%s\n",
		width, height, width, height, plotStyle)
	fmt.Fprintf(&svg, `<rect class="paper" width="%d" height="%d"/>`+"\n", width, height)
	for i, c := range curves {
		drawPanel(&svg, c, (i%panelsARow)*panelWidth, (i/panelsARow)*panelHeight)
	}
	svg.WriteString("</svg>\n")
	return svg.String()
}

func drawPanel(svg *strings.Builder, c curve, left, top int) {
	most := point{}
	for _, p := range c.points {
		most.x, most.y = max(most.x, p.x), max(most.y, p.y)
	}
	x0, y0 := float64(left+panelMargin), float64(top+panelHeight-panelMargin+14)
	wide, high := float64(panelWidth-2*panelMargin), float64(panelHeight-panelMargin-26)
	place := func(p point) (float64, float64) {
		x, y := x0, y0
		if most.x > 0 {
			x += p.x / most.x * wide
		}
		if most.y > 0 {
			y -= p.y / most.y * high
		}
		return x, y
	}
	fmt.Fprintf(svg, `<text class="title" x="%.0f" y="%d">%s, %s</text>`+"\n", x0, top+18, html.EscapeString(c.name), html.EscapeString(c.unit))
	fmt.Fprintf(svg, `<line class="axis" x1="%.0f" y1="%.0f" x2="%.0f" y2="%.0f"/><line class="axis" x1="%.0f" y1="%.0f" x2="%.0f" y2="%.0f"/>`+"\n",
		x0, y0, x0+wide, y0, x0, y0, x0, y0-high)
	var line []string
	for _, p := range c.points {
		x, y := place(p)
		line = append(line, fmt.Sprintf("%.1f,%.1f", x, y))
		fmt.Fprintf(svg, `<circle cx="%.1f" cy="%.1f" r="3" fill="#0072b2"/><text x="%.1f" y="%.1f" text-anchor="middle">%s</text><text x="%.1f" y="%.0f" text-anchor="middle">%s</text>`+"\n",
			x, y, x, y-7, number(p.y), x, y0+14, number(p.x))
	}
	fmt.Fprintf(svg, `<polyline points="%s" fill="none" stroke="#0072b2" stroke-width="1.5"/>`+"\n", strings.Join(line, " "))
}
