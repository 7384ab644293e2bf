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
{"id":"R1","figure":"API calls of a life, growth, create","value":7,"unit":"calls","ok":true,"runs":1,"commit":"abc","command":"make faults"}
{"id":"R1","figure":"API calls of a life, again, create","value":4,"unit":"calls","ok":true,"runs":1,"commit":"abc","command":"make faults"}
{"id":"R1","figure":"API calls of a life, growth, list","value":65,"unit":"calls","ok":true,"runs":1,"commit":"abc","command":"make faults"}
{"id":"R1","figure":"API calls of a life, growth, watch","value":0,"unit":"calls","ok":true,"runs":1,"commit":"abc","command":"make faults"}
{"id":"O3","figure":"uninstall","value":11.5,"unit":"s","bound":"<=90","ok":true,"runs":1,"commit":"abc","command":"make test-e2e"}
{"id":"O3","figure":"CRDs first, until gone","value":91,"unit":"s","bound":"<=90","ok":false,"runs":1,"commit":"abc","command":"make test-e2e"}
{"id":"O4","figure":"until Ready again","value":3,"unit":"s","ok":true,"runs":1,"commit":"abc","command":"make test-e2e"}
{"id":"O4","figure":"silent moves","value":0,"unit":"sessions","ok":true,"runs":1,"commit":"abc","command":"make test-e2e"}
{"id":"O5","figure":"until nothing is left","value":2.5,"unit":"s","ok":true,"runs":1,"commit":"abc","command":"make test-e2e"}
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
		"| API calls in a pool's life | API calls of a life, growth: 72 (7 create, 65 list)<br>API calls of a life, again: 4 (4 create) |",
		"| cleanup, the slowest of each test below | O3: 91 s **BEYOND**<br>O5: 2.5 s |", "| R2 | watches late by 50 ms to 2 s | creates = needed | not run |  |",
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
	if got := text(lines[:strings.Index(lines, "\n")]); !strings.Contains(got, "below | not run |") {
		t.Errorf("a cleanup that nobody measured:\n%s", got)
	}
	// One point is no curve, and an old plot must not stay.
	if got := text(lines[:strings.LastIndex(strings.TrimSpace(lines), "\n")]); !strings.HasSuffix(got, "## Scale\n\nnot run\n") {
		t.Errorf("a curve of one point:\n%s", got)
	}
	if _, err := os.Stat(svg); err == nil {
		t.Error("the old plot is still there")
	}
}
