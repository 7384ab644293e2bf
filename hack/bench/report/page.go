package report

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

// Parts of the page that programs write, each between its markers.
const (
	BenchPart   = "bench"
	ProfilePart = "profile"
	PeersPart   = "peers"
)

// Replace writes a part of a page anew. The page must have the part's markers: <!-- NAME:begin --> and <!-- NAME:end -->.
func Replace(path, part, text string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := "<!-- "+part+":begin -->", "<!-- "+part+":end -->"
	before, rest, began := strings.Cut(string(page), begin)
	_, after, ended := strings.Cut(rest, end)
	if !began || !ended {
		return fmt.Errorf("%s has no part between %q and %q", path, begin, end)
	}
	return os.WriteFile(path, []byte(before+begin+"\n"+text+end+after), 0o644)
}

// Plain is the result for a terminal.
func Plain(r *Result) string {
	return columns(measureRows(r), 0) + "\n" + columns(figureRows(r), 0)
}

// columns lines up rows.
func columns(rows [][]string, flags uint) string {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', flags)
	for _, row := range rows {
		_, _ = fmt.Fprintln(table, strings.Join(row, "\t")+"\t") // a strings.Builder takes everything
	}
	_ = table.Flush()
	return text.String()
}

// WritePage writes the bench part of a page, and the plots in img/ beside it.
func WritePage(path string, r *Result) error {
	if err := Replace(path, BenchPart, Markdown(r)); err != nil {
		return err
	}
	folder := filepath.Join(filepath.Dir(path), "img")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, p := range Plots(r) {
		if err := os.WriteFile(filepath.Join(folder, p.Name), []byte(p.SVG), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Markdown is the generated part of the page.
func Markdown(r *Result) string {
	var text strings.Builder
	fmt.Fprintf(&text, "\n`%s`: ", r.Command)
	for i, p := range r.About {
		if i > 0 {
			text.WriteString(", ")
		}
		fmt.Fprintf(&text, "%s %s", p.Name, p.Value)
	}
	text.WriteString(".\n\n### What must be reached\n\n")
	text.WriteString(markdownTable(figureRows(r)))
	text.WriteString("\n### What was measured\n\n")
	text.WriteString(noise(r))
	text.WriteString("\n\n")
	text.WriteString(markdownTable(measureRows(r)))
	text.WriteByte('\n')
	for _, p := range Plots(r) {
		fmt.Fprintf(&text, "![%s](img/%s)\n\n", p.Title, p.Name)
	}
	return text.String()
}

// noise says how far the machine was our own.
func noise(r *Result) string {
	var foreign []float64
	for _, c := range r.Cells {
		for _, repeat := range c.Repeats {
			for _, m := range repeat {
				foreign = append(foreign, m.Foreign*100)
			}
		}
	}
	f := SpreadOf(foreign)
	text := fmt.Sprintf("Other processes and the kernel used %.0f %% of the cores during the median measurement (%.0f to %.0f %%).", f.Median, f.Low, f.High)
	c := r.Cell("again-8")
	if c == nil {
		return text
	}
	self := func(metric Metric) string {
		s := c.Ratio(AgainName, SyncName, metric)
		return fmt.Sprintf("× %.2f (%.2f to %.2f)", s.Median, s.Low, s.High)
	}
	return text + fmt.Sprintf(" A system against itself: throughput %s, p50 %s, server CPU %s; a ratio within these ranges shows no difference.",
		self(Throughput), self(Median), self(ServerCPU))
}

func markdownTable(rows [][]string) string {
	var text strings.Builder
	for i, row := range rows {
		text.WriteString("| " + strings.Join(row, " | ") + " |\n")
		if i == 0 {
			text.WriteString("|" + strings.Repeat("---|", len(row)) + "\n")
		}
	}
	return text.String()
}

func figureRows(r *Result) [][]string {
	rows := [][]string{{"id", "figure", "value", "must reach", "aim", ""}}
	for _, f := range r.Figures() {
		value := number(f.Value)
		if f.Unit != "ratio" {
			value += " " + f.Unit
		}
		if f.Low != nil && f.High != nil {
			value += fmt.Sprintf(" (%s to %s)", number(*f.Low), number(*f.High))
		}
		verdict := "reached"
		switch {
		case f.Void:
			verdict = "void: too few calls or repeats"
		case !f.OK:
			verdict = "**not reached**"
		}
		bound := strings.NewReplacer(">=", "≥ ", "<=", "≤ ").Replace(f.Bound)
		rows = append(rows, []string{f.ID, f.Figure, value, bound, Aims[f.ID], verdict})
	}
	return rows
}

func measureRows(r *Result) [][]string {
	rows := [][]string{{"load", "system", "calls/s", "p50 µs", "p99 µs", "p99.9 µs", "server CPU µs (router + Python)", "client CPU µs", "RSS (PSS) MiB", "idle"}}
	for i := range r.Cells {
		c := &r.Cells[i]
		for n, name := range c.Systems {
			of := func(m Metric) Spread { return c.Of(name, m) }
			cpu := number(of(ServerCPU).Median)
			if router := of(func(m Measure) float64 { return m.RouterCPU }).Median; router > 0 {
				cpu += fmt.Sprintf(" (%s + %s)", number(router), number(of(func(m Measure) float64 { return m.WorkersCPU }).Median))
			}
			title := ""
			if n == 0 {
				title = c.Title
			}
			rows = append(rows, []string{
				title, name, ranged(of(Throughput)), ranged(of(Median)), ranged(of(func(m Measure) float64 { return m.P99 })),
				ranged(of(func(m Measure) float64 { return m.P999 })), cpu, number(of(ClientCPU).Median),
				fmt.Sprintf("%.0f (%.0f)", of(func(m Measure) float64 { return m.RSS }).Median, of(func(m Measure) float64 { return m.PSS }).Median),
				fmt.Sprintf("%.0f %%", of(func(m Measure) float64 { return m.Idle }).Median*100),
			})
		}
	}
	return rows
}

// ranged is a median with its range.
func ranged(s Spread) string {
	return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Low), number(s.High))
}

// number with three digits that count, and commas between thousands.
func number(v float64) string {
	switch {
	case v >= 1000:
		text := fmt.Sprintf("%.0f", v)
		for i := len(text) - 3; i > 0; i -= 3 {
			text = text[:i] + "," + text[i:]
		}
		return text
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
}
