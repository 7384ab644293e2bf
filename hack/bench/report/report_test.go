package report

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// measured makes a cell: for each system its throughput in each repeat; p50 is its inverse, CPU a call half of that.
func measured(id string, outstanding int, values map[string][]float64, systems ...string) Cell {
	c := Cell{ID: id, Title: id, Workers: 1, Outstanding: outstanding, Systems: systems}
	for n := range values[systems[0]] {
		var repeat []Measure
		for _, s := range systems {
			v := values[s][n]
			repeat = append(repeat, Measure{System: s, Calls: int(v), PerSecond: v, P50: 1e6 / v, P99: 2e6 / v, P999: 3e6 / v, ServerCPU: 5e5 / v, RSS: 10, PSS: 5})
		}
		c.Repeats = append(c.Repeats, repeat)
	}
	return c
}

func story() *Result {
	values := map[string][]float64{
		OursName:  {20_000, 10_000, 21_000, 19_000, 20_000},
		SyncName:  {5_000, 2_500, 5_000, 5_000, 5_000},
		AsyncName: {4_000, 2_000, 4_000, 4_000, 9_000}, // better once, but not by its median
	}
	return &Result{
		Commit: "abc", Command: "make bench", Seed: 1, About: []Pair{{"Go", "1.26"}, {"CPython", "3.11"}},
		Cells: []Cell{measured("unary-8", 8, values, OursName, SyncName, AsyncName)},
		Told:  []Figure{{ID: "B10", Figure: "table", Value: 201, Unit: "MiB", Bound: "<=200", Runs: 1}},
	}
}

func TestSpread(t *testing.T) {
	if s := SpreadOf([]float64{3, 1, 2}); s != (Spread{2, 1, 3, 3}) {
		t.Errorf("odd: %+v", s)
	}
	if s := SpreadOf([]float64{4, 1, 2, 3}); s != (Spread{2.5, 1, 4, 4}) {
		t.Errorf("even: %+v", s)
	}
	if s := SpreadOf(nil); s != (Spread{}) {
		t.Errorf("none: %+v", s)
	}
}

// The machine was slow in the second repeat, for everybody: pairs within a repeat do not see it.
func TestRatiosAreOfPairs(t *testing.T) {
	c := story().Cells[0]
	s := c.Ratio(OursName, SyncName, Throughput)
	if s.Median != 4 || s.Low != 3.8 || s.High != 4.2 || s.N != 5 {
		t.Errorf("%+v", s)
	}
	if s := c.Ratio(OursName, "nobody", Throughput); s.N != 0 {
		t.Errorf("a system that was not measured: %+v", s)
	}
}

func TestTheBetterPlainServerCounts(t *testing.T) {
	c := story().Cells[0]
	for _, more := range []bool{true, false} {
		metric := Throughput
		if !more {
			metric = Median
		}
		if best := c.Best(Direct, metric, more); best != SyncName {
			t.Errorf("more is better %t: %q", more, best)
		}
	}
	if best := c.Best([]string{"nobody"}, Throughput, true); best != "" {
		t.Errorf("%q of none", best)
	}
}

func TestFigures(t *testing.T) {
	r := story()
	found := map[string]Figure{}
	for _, f := range r.Figures() {
		found[f.ID] = f
	}
	for id, want := range map[string]struct {
		value float64
		ok    bool
	}{"B1": {4, true}, "B3": {0.25, true}, "B4": {0.25, true}, "B10": {201, false}} {
		if f := found[id]; f.Value != want.value || f.OK != want.ok {
			t.Errorf("%s: %+v", id, f)
		}
	}
	if len(found) != 4 {
		t.Errorf("figures without a cell: %v", found)
	}
	r.Cells[0].Repeats[3][1].Calls = 10
	for _, f := range r.Figures() {
		if f.ID != "B10" && (!f.Void || f.OK) {
			t.Errorf("10 calls suffice for %+v", f)
		}
	}
	r = story()
	r.Cells[0].Repeats = r.Cells[0].Repeats[:4]
	if f := r.Figures()[0]; !f.Void || f.OK {
		t.Errorf("4 repeats suffice for %+v", f)
	}
}

func TestHolds(t *testing.T) {
	for bound, want := range map[string]bool{">=2": true, ">=2.5": false, "<=2": true, "<=1.9": false, ">= 1": true, "": false, "2": false, ">=x": false, "==2": false} {
		if Holds(bound, 2) != want {
			t.Errorf("2 %s", bound)
		}
	}
}

func TestSortCountsIds(t *testing.T) {
	figures := []Figure{{ID: "B10"}, {ID: "B6", Figure: "b"}, {ID: "B6", Figure: "a"}}
	if Sort(figures); figures[0].Figure != "a" || figures[2].ID != "B10" {
		t.Errorf("%v", figures)
	}
}

func TestPage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(path, []byte("before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it replaces its own text
		if err := WritePage(path, story()); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	for _, want := range []string{
		"before\n", "\nafter\n", "`make bench`: Go 1.26, CPython 3.11.", "| B1 | throughput, routed / direct, 8 outstanding | 4 (3.8 to 4.2) | ≥ 2.5 | ≥ 4 | reached |",
		"| B10 | table | 201 MiB | ≤ 200 | ≤ 120 | **not reached** |", "| unary-8 | snakepit | 20,000 (10,000–21,000) |", "img/bench-throughput.svg",
	} {
		if strings.Count(page, want) != 1 {
			t.Errorf("%q stands there %d times", want, strings.Count(page, want))
		}
	}
	if strings.Contains(page, "old") {
		t.Error("the old text stayed")
	}
	for _, name := range []string{"bench-throughput.svg", "bench-cpu.svg"} {
		svg, err := os.Open(filepath.Join(filepath.Dir(path), "img", name))
		if err != nil {
			t.Fatal(err)
		}
		decoder := xml.NewDecoder(svg)
		for err = error(nil); err == nil; {
			_, err = decoder.Token()
		}
		_ = svg.Close()
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s is no XML: %v", name, err)
		}
	}
	if err := os.WriteFile(path, []byte("no markers"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WritePage(path, story()); err == nil {
		t.Error("a page without markers was written")
	}
}

func TestSaveLoadAppend(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "a")
	r := story()
	if err := r.Save(filepath.Join(folder, "r.json")); err != nil {
		t.Fatal(err)
	}
	back, err := Load(filepath.Join(folder, "r.json"))
	if err != nil || Markdown(back) != Markdown(r) {
		t.Errorf("it changed on the way: %v", err)
	}
	for range 2 {
		if err := Append(filepath.Join(folder, "f.jsonl"), r.Figures()); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(folder, "f.jsonl"))
	if err != nil || strings.Count(string(text), `"bound":">=2.5"`) != 2 {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.256: "0.26", 2: "2", 12.34: "12.3", 123.4: "123", 1234: "1,234", 1234567: "1,234,567"} {
		if got := number(v); got != want {
			t.Errorf("%g: %q, want %q", v, got, want)
		}
	}
}

const traces = `File: router
Type: cpu
Duration: 10s
-----------+-------------------------------------------------------
     300ms   internal/runtime/syscall.Syscall6
             syscall.write
             github.com/snakepit-k8s/snakepit/router/bridge.(*conn).write
             google.golang.org/grpc.(*Server).handleStream
-----------+-------------------------------------------------------
      bytes:  1kB
     100ms   runtime.futex
             runtime.wakep
             runtime.schedule
-----------+-------------------------------------------------------
     600ms   google.golang.org/grpc/internal/transport.(*loopyWriter).run
-----------+-------------------------------------------------------
`

func TestProfile(t *testing.T) {
	stacks := parseTraces(traces)
	if len(stacks) != 3 || len(stacks[0].frames) != 4 {
		t.Fatalf("%+v", stacks)
	}
	for i, want := range [][2]string{{"router/bridge", "system calls"}, {elsewhere, "waking"}, {"grpc-go", plainKind}} {
		if stacks[i].place() != want[0] || stacks[i].kind() != want[1] {
			t.Errorf("stack %d: %s, %s", i, stacks[i].place(), stacks[i].kind())
		}
	}
	text := Profile(traces, 1e6)
	for _, want := range []string{"router/bridge", "1.0"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}
