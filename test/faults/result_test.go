package faults

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// worstRecovery is the bound of R1: from the start of the successor until what the user asked for is reached.
const worstRecovery = 5 * time.Second

// witness is a test that remembers what went wrong first.
type witness struct {
	testing.TB
	mu    sync.Mutex
	first string
}

func (w *witness) keep(message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.first == "" {
		w.first = message
	}
}

// Error, Errorf, Fatal and Fatalf are the test's own; the rest of what may end a test is not used here.
func (w *witness) Error(args ...any) {
	w.Helper()
	w.keep(fmt.Sprintln(args...))
	w.TB.Error(args...)
}

// Errorf is like Error.
func (w *witness) Errorf(format string, args ...any) {
	w.Helper()
	w.keep(fmt.Sprintf(format, args...))
	w.TB.Errorf(format, args...)
}

// Fatal is like Error.
func (w *witness) Fatal(args ...any) {
	w.Helper()
	w.keep(fmt.Sprintln(args...))
	w.TB.Fatal(args...)
}

// Fatalf is like Error.
func (w *witness) Fatalf(format string, args ...any) {
	w.Helper()
	w.keep(fmt.Sprintf(format, args...))
	w.TB.Fatalf(format, args...)
}

// longestLine bounds what a summary says of one point, in characters.
const longestLine = 400

// why is what went wrong first, on one line; empty when nothing did.
func (w *witness) why() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	line := []rune(strings.Join(strings.Fields(w.first), " "))
	if len(line) > longestLine {
		line = append(line[:longestLine], '…')
	}
	return string(line)
}

// summary is printed when all output of the tests is out: the end of a log is what is kept of it.
var summary []string

func summarize(format string, args ...any) { summary = append(summary, fmt.Sprintf(format, args...)) }

// result is what all points of a run came to.
type result struct {
	mu      sync.Mutex
	planned int
	seed    uint64
	// golden is the life without a fault of each chapter.
	golden  map[string]golden
	points  int
	reached int
	// failed says of each failed life which it is and why.
	failed  []string
	slowest *lifeOfPool
	longest time.Duration
}

// plan notes what will be run of a chapter.
func (r *result) plan(c chapter, g golden, points int, seed uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.golden == nil {
		r.golden = map[string]golden{}
	}
	r.golden[c.name], r.seed = g, seed
	r.planned += points
}

// fail adds a life to the failed ones.
func (r *result) fail(l *lifeOfPool, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, fmt.Sprintf("%s/%s, after %d lines of story: %s", l.chapter.name, l.point, len(l.story.lines), why))
}

func (r *result) add(l *lifeOfPool) {
	if l.t.Failed() {
		r.fail(l, orElse(l.t.why(), "no check of ours failed; a race or a panic did, see the output"))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.points++
	if l.faulted {
		r.reached++
	}
	if l.recovery > r.longest {
		r.longest, r.slowest = l.recovery, l
	}
}

// report says what the run came to. A run in which faults did not happen is void: it has shown nothing.
func (r *result) report(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range chapters {
		if g, ok := r.golden[c.name]; ok {
			summarize("R1: %s: W = %d writes; API calls: %v", c.name, len(g.writes), g.calls)
		}
	}
	summarize("R1: %d points, at %d of them the fault happened, %d failed, worst recovery %.1f s", r.points, r.reached, len(r.failed), r.longest.Seconds())
	if r.longest > worstRecovery {
		fmt.Printf("R1: the recovery of %s/%s, beyond %s:\n%s\n", r.slowest.chapter.name, r.slowest.point, worstRecovery, r.slowest.story)
		summarize("R1: the recovery of %s/%s was beyond %s", r.slowest.chapter.name, r.slowest.point, worstRecovery)
	}
	for _, failed := range r.failed {
		summarize("R1: failed: %s", failed)
	}
	if len(r.golden) < len(chapters) || r.points < r.planned {
		return // no golden life, or single points, by name
	}
	void := r.reached*10 < r.points*9
	if void {
		summarize("R1: void: the fault happened at only %d of %d points", r.reached, r.points)
		t.Errorf("void: the fault happened at only %d of %d points", r.reached, r.points)
	}
	figures := r.figures()
	for i := range figures {
		f := &figures[i]
		f.ID, f.Runs, f.Seed, f.Command = "R1", r.points, r.seed, "make faults"
		f.Void, f.OK = void, f.OK && !void
	}
	if err := fixture.AppendFigures(figures); err != nil {
		t.Errorf("the figures were not written: %v", err)
	}
}

// figures are what R1 is asked for: points, recovery, and what each chapter costs the API server.
func (r *result) figures() []fixture.Figure {
	failed, longest := float64(len(r.failed)), r.longest.Seconds()
	figures := []fixture.Figure{
		{Figure: "points", Value: float64(r.points), Unit: "points", OK: true},
		{Figure: "failed", Value: failed, Unit: "points", Bound: "<=0", OK: failed <= 0},
		{Figure: "worst recovery", Value: longest, Unit: "s", Bound: fmt.Sprintf("<=%g", worstRecovery.Seconds()), OK: longest <= worstRecovery.Seconds(), Clock: true},
	}
	for _, c := range chapters {
		g := r.golden[c.name]
		figures = append(figures, fixture.Figure{Figure: "writes of a life (W), " + c.name, Value: float64(len(g.writes)), Unit: "writes", OK: true})
		for _, verb := range slices.Sorted(maps.Keys(g.calls)) {
			figures = append(figures, fixture.Figure{Figure: "API calls of a life, " + c.name + ", " + verb, Value: float64(g.calls[verb]), Unit: "calls", OK: true})
		}
	}
	return figures
}

// story is what happened at one point, in order, for whoever has to understand a failure.
type story struct {
	mu      sync.Mutex
	started time.Time
	lines   []string
	// panics that the operator's log told of.
	panics []string
}

func newStory() *story { return &story{started: time.Now()} }

func (s *story) tell(who, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf("%6d ms  %-8s  %s", time.Since(s.started).Milliseconds(), who, fmt.Sprintf(format, args...)))
}

// log takes the operator's log. Only panics are kept: the writes tell the rest.
func (s *story) log(prefix, args string) {
	if !strings.Contains(args, "panic") {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.panics = append(s.panics, prefix+" "+args)
}

func (s *story) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

func (s *story) sawPanic() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.panics
}
