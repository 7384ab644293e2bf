package main

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestParse(t *testing.T) {
	var r recorder
	r.MustRegister(
		prometheus.NewCounterVec(prometheus.CounterOpts{Name: "a_total", Help: `Says "it" | more.`}, []string{"x", "y"}),
		prometheus.NewHistogram(prometheus.HistogramOpts{Name: "b_seconds", Help: "Takes."}),
		prometheus.NewGauge(prometheus.GaugeOpts{Name: "c", Help: "Is."}))
	if r.err != nil {
		t.Fatal(r.err)
	}
	var page strings.Builder
	table(&page, r.metrics)
	for _, row := range []string{"| `a_total` | counter | x, y | Says \"it\" \\| more. |", "| `b_seconds` | histogram |  | Takes. |", "| `c` | gauge |  | Is. |"} {
		if !strings.Contains(page.String(), row+"\n") {
			t.Errorf("no row %s in:\n%s", row, page.String())
		}
	}
	if _, err := parse("Desc{something else}", nil); err == nil {
		t.Error("an unknown description was accepted")
	}
}

// Every metric of ours follows the rules for names: the prefix, and units at the end.
func TestNames(t *testing.T) {
	page, err := write()
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(page) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !strings.HasPrefix(cells[1], " `snakepit_") {
			continue
		}
		rows++
		name, kind, help := strings.Trim(cells[1], " `"), strings.TrimSpace(cells[2]), strings.TrimSpace(cells[4])
		if (kind == "counter") != strings.HasSuffix(name, "_total") || (kind == "histogram") != strings.HasSuffix(name, "_seconds") {
			t.Errorf("%s is a %s", name, kind)
		}
		if !strings.HasSuffix(help, ".") {
			t.Errorf("%s: the meaning is no sentence: %s", name, help)
		}
	}
	if rows < 20 {
		t.Errorf("only %d metrics of ours on the page", rows)
	}
}
