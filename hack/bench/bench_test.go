package main

import (
	"strings"
	"testing"
	"time"

	"github.com/snakepit-k8s/snakepit/hack/bench/report"
	"github.com/snakepit-k8s/snakepit/hack/bench/system"
)

func TestOptions(t *testing.T) {
	for args, want := range map[string]string{
		"--repeats 0": "--repeats", "--repeats 51": "--repeats", "--budget 10s": "--budget", "more": "unexpected", "--render x": "--docs", "--adapter x": "--adapter",
	} {
		if _, err := parse(strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
	t.Setenv("BENCH_QUICK", "1")
	o, err := parse(nil)
	if err != nil || !o.quick || o.repeats != 2 || o.budget > 2*time.Minute {
		t.Errorf("quick: %+v, %v", o, err)
	}
}

// Every loop of a run must fit into its budget, with what is kept for the rest.
func TestTheBudgetHolds(t *testing.T) {
	older := system.Tree{}
	for name, o := range map[string]options{
		"default": {repeats: 5, budget: 11 * time.Minute}, "quick": {repeats: 2, budget: 100 * time.Second, quick: true},
	} {
		groups, err := plan(trees{baseline: &older}, o.quick)
		if err != nil {
			t.Fatal(err)
		}
		count := 0
		for _, g := range groups {
			for _, c := range g.cells {
				count += len(c.entries) * o.repeats
				for _, e := range c.entries {
					if g.systems[e.of] == nil {
						t.Errorf("%s: nothing starts %s", c.id, e.of)
					}
				}
			}
		}
		window := windowOf(groups, o)
		if all := time.Duration(count) * (window + warm + between); all > o.budget {
			t.Errorf("%s: %d measurements of %s need %s of %s", name, count, window, all, o.budget)
		}
	}
}

func TestChosen(t *testing.T) {
	groups, err := plan(trees{}, false)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := chosen(groups, "tools,session-8")
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) != 2 || len(kept[0].systems) != 1 || len(kept[0].cells) != 1 || len(kept[1].cells) != 2 {
		t.Errorf("%+v", kept)
	}
	if _, err := chosen(groups, "nothing"); err == nil {
		t.Error("a choice of nothing is an error")
	}
}

func TestSpreadGivesAllSystemsTheSameConnections(t *testing.T) {
	for _, addresses := range [][]string{{"a"}, {"a", "b"}} {
		if got := spread(addresses, 2); len(got) != 2 || got[0] != "a" {
			t.Errorf("%v: %v", addresses, got)
		}
	}
}

const goBench = `goos: linux
BenchmarkDispatchUnary/workers=4/outstanding=1-2     	   20000	       512.3 ns/op	       0 B/op	       0 allocs/op
BenchmarkDispatchUnary/workers=4/outstanding=64-2    	   20000	       512.3 ns/op	       0 B/op	       1 allocs/op
BenchmarkDispatchSession     	   20000	       700 ns/op	      64 B/op	       1 allocs/op
BenchmarkBridgeUnary-2       	   20000	       900 ns/op	      64 B/op	       1 allocs/op
BenchmarkSessionTable1M-2    	       1	  9 ns/op	   150.5 MiB
PASS
`

func TestGoBenchmarks(t *testing.T) {
	found := parseBenchmarks(goBench)
	if found["SessionTable1M"]["MiB"] != 150.5 || len(found) != 5 {
		t.Errorf("%v", found)
	}
	s := &session{result: &report.Result{}}
	figures, err := s.allocations(found)
	if err != nil || len(figures) != 2 || figures[0].Value != 2 || figures[1].Value != 2 || !figures[1].OK {
		t.Errorf("%+v, %v", figures, err)
	}
	for _, name := range []string{"DispatchUnary", "BridgeUnary"} {
		fewer := parseBenchmarks(strings.ReplaceAll(goBench, "Benchmark"+name, "Benchmark_"))
		if _, err := s.allocations(fewer); err == nil {
			t.Errorf("%s is missing and nobody says so", name)
		}
	}
}
