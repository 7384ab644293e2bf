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
		"default": {repeats: 5, budget: 11 * time.Minute}, "quick": {repeats: 2, budget: 85 * time.Second, quick: true},
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
BenchmarkDispatchUnaryOther     	   20000	       700 ns/op	      64 B/op	       9 allocs/op
BenchmarkSessionTable1M-2    	       1	  9 ns/op	   150.5 MiB
PASS
`

func TestGoBenchmarks(t *testing.T) {
	found := parseBenchmarks(goBench)
	for name, want := range map[[2]string]float64{{"DispatchUnary", "allocs/op"}: 1, {"SessionTable1M", "MiB"}: 150.5} {
		if v, ok := worst(found, name[0], name[1]); !ok || v != want {
			t.Errorf("%v: %g, %t", name, v, ok)
		}
	}
	for _, name := range [][2]string{{"Dispatch", "allocs/op"}, {"SessionTable1M", "allocs/op"}} {
		if v, ok := worst(found, name[0], name[1]); ok {
			t.Errorf("%v: %g, which nobody told", name, v)
		}
	}
}

const allocated = `=== RUN   TestAllocationsOfACall
    allocs_test.go:117: session "": upstream allocates 9.00 objects a call
    allocs_test.go:117: session "": bridge allocates 0.50 objects a call
    allocs_test.go:117: session "s": bridge/fakeworker allocates 1.00 objects a call
    allocs_test.go:117: session "s": dispatch allocates 2.25 objects a call
--- FAIL: TestAllocationsOfACall (0.52s)
`

func TestAllocations(t *testing.T) {
	s := &session{result: &report.Result{}}
	figures, err := s.allocations(allocated)
	if err != nil || len(figures) != 2 || figures[0].Value != 0.5 || !figures[0].OK || figures[1].Value != 2.25 || figures[1].OK {
		t.Errorf("%+v, %v", figures, err)
	}
	if _, err := s.allocations("ok router/upstream [no tests to run]"); err == nil {
		t.Error("a test that did not run has allocated nothing")
	}
}
