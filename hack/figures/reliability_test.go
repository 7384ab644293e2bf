package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReliability(t *testing.T) {
	lines := `{"id":"R1","figure":"failed","value":2,"unit":"points","bound":"<=0","ok":false,"runs":191,"seed":7,"commit":"abc","command":"make faults"}
{"id":"R7","figure":"SIGKILL of the leader to the next leader","value":16.62,"unit":"s","bound":"<=20","ok":true,"runs":1,"commit":"abc","command":"make faults"}
{"id":"S1","figure":"cleanup of something else","value":3,"unit":"s","ok":true,"runs":1,"commit":"abc","command":"make datapath-faults"}
{"id":"R15","figure":"seconds to Ready at 100 pools","value":10,"unit":"s","ok":true,"runs":1,"commit":"abc","command":"make scale"}
{"id":"R15","figure":"seconds to Ready at 1,000 pools","value":100,"unit":"s","ok":true,"runs":1,"commit":"abc","command":"make scale"}
`
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "img"), 0o755); err != nil {
		t.Fatal(err)
	}
	file, page := filepath.Join(dir, "figures.jsonl"), filepath.Join(dir, "reliability.md")
	text := func(lines string) string {
		t.Helper()
		if err := os.WriteFile(file, []byte(lines), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := run(file, page, nil); err != nil {
			t.Fatal(err)
		}
		written, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		return string(written)
	}
	got := text(lines)
	for _, want := range []string{
		"failed: 2 points (&lt;=0) **BEYOND**", "191 runs, seed 7, abc, `make faults`",
		"| failover | SIGKILL of the leader to the next leader: 16.62 s (&lt;=20) |",
		"| cleanup | not run |", "| R2 | watches late by 50 ms to 2 s | creates = needed | not run |  |",
		"](img/reliability-scale.svg)",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	svg := filepath.Join(dir, "img", "reliability-scale.svg")
	if plot, err := os.ReadFile(svg); err != nil || strings.Count(string(plot), "<circle") != 2 {
		t.Errorf("the plot does not have its two points (%v): %s", err, plot)
	}
	// One point is no curve, and an old plot must not stay.
	if got := text(strings.Join(strings.SplitAfter(lines, "\n")[:4], "")); !strings.HasSuffix(got, "## Scale\n\nnot run\n") {
		t.Errorf("a curve of one point:\n%s", got)
	}
	if _, err := os.Stat(svg); err == nil {
		t.Error("the old plot is still there")
	}
}
