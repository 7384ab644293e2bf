package faults

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
)

var (
	server  *fixture.APIServer
	watcher *audit
)

func TestMain(m *testing.M) {
	fixture.Main("crash at every write", "make faults", func() (int, error) { return fixture.Leakless(func() (int, error) { return run(m) }) })
}

// run has one API server, one kubelet and one audit for all points.
func run(m *testing.M) (code int, err error) {
	if server, err = fixture.StartAPIServer(); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	if watcher, err = startAudit(server.Config); err != nil {
		return 1, err
	}
	kubelet, err := standin.StartKubelet(server.Config, "")
	if err != nil {
		return 1, errors.Join(err, watcher.Stop())
	}
	code = m.Run()
	for _, line := range summary {
		fmt.Println(line)
	}
	return code, errors.Join(kubelet.Stop(), watcher.Stop())
}

// point is one place in the life cycle where a fault happens, and what the user does then.
type point struct {
	k    int
	at   position
	what string
	how  moment
	act  act
}

func (p point) String() string {
	if p.how == never {
		return "a life without a fault"
	}
	return fmt.Sprintf("k=%d,%s,%s,%s", p.k, p.what, p.how, p.act)
}

// golden is what a chapter without a fault does.
type golden struct {
	writes  []write
	creates map[string]int
	states  []map[string]string
	marks   []mark
	calls   map[string]int
}

// place is the step in which the k-th write happened.
func (g golden) place(k int) mark {
	var found mark
	for _, m := range g.marks {
		if m.writes < k {
			found = m
		}
	}
	return found
}

// goldenLives is how often a chapter without a fault is lived: what it makes and how it ends must be the same each time. For points that were
// given by name one life must do.
func goldenLives() int {
	if os.Getenv("FAULTS") == "" {
		return 1
	}
	return 3
}

// TestCrashAtEveryWrite is R1. FAULTS=sample runs each write's position with one of its faults, chosen by FAULTS_SEED; otherwise all run.
func TestCrashAtEveryWrite(t *testing.T) {
	all := &result{}
	t.Cleanup(func() { all.report(t) })
	for i, c := range chapters {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := goldenLife(t, c, all)
			points, seed := choose(t, uint64(i), g)
			all.plan(c, g, len(points), seed)
			for _, p := range points {
				t.Run(p.String(), func(t *testing.T) {
					t.Parallel()
					l := newLife(t, c, p)
					// Registered before the life begins, so that it runs when all else has ended: the end may fail too.
					t.Cleanup(func() { all.add(l) })
					l.begin()
					l.live(g.states)
					l.judge(g)
				})
			}
		})
	}
}

// goldenLife lives the chapter without a fault. The shortest life is the measure: its writes happen in every life.
func goldenLife(t *testing.T, c chapter, all *result) golden {
	t.Helper()
	var g golden
	for i := range goldenLives() {
		l := newLife(t, c, point{how: never, act: restart})
		t.Cleanup(func() {
			if why := l.t.why(); why != "" {
				all.fail(l, why)
			}
		})
		l.begin()
		l.live(nil)
		l.stop()
		writes, _ := l.wire.sent()
		made := creates(watcher.Seen(l.namespace))
		l.judge(golden{creates: made})
		if i > 0 && !maps.Equal(made, g.creates) {
			l.t.Fatalf("a life without a fault made %v, the one before made %v: there is nothing to compare with", made, g.creates)
		}
		for n, want := range g.states {
			if lines := difference(want, l.states[n]); len(lines) > 0 {
				l.t.Fatalf("two lives without a fault differ after %s: %v", c.steps[n].name, lines)
			}
		}
		if t.Failed() {
			t.FailNow()
		}
		l.untold = true
		if i == 0 || len(writes) < len(g.writes) {
			g = golden{writes: writes, creates: made, states: l.states, marks: l.marks, calls: l.calls}
		}
	}
	t.Logf("W = %d:\n%s", len(g.writes), g)
	return g
}

func (g golden) String() string {
	var lines []string
	for i, w := range g.writes {
		lines = append(lines, fmt.Sprintf("%4d  step %d  %s", i+1, g.place(i+1).step+1, w))
	}
	return strings.Join(lines, "\n")
}

// faultsAt are all faults at the k-th write of a golden life.
func faultsAt(g golden, c chapter, k int, at position) []point {
	w, place := g.writes[k-1], g.place(k)
	acts := []act{restart, userRescales}
	// Once the pool is deleted the user has no more to delete.
	if !place.deleted {
		acts = append(acts, userDeletes)
	}
	var points []point
	add := func(how moment, acts ...act) {
		for _, a := range acts {
			points = append(points, point{k, at, w.kind(), how, a})
		}
	}
	add(before, acts...)
	add(after, acts...)
	if c.steps[place.step].name == stepImage {
		add(after, userReverts)
	}
	add(held, userReplaces)
	// A status is written anew when it is not right: of its writes only whether they happen matters.
	if w.sub == "" {
		add(lost, goesOn)
		add(late, acts...)
	}
	return points
}

// choose returns the points to run, and the seed when they are a sample (0 when they are all). A sample has one fault at a position, and the
// creation, with which every chapter begins, only once.
func choose(t *testing.T, index uint64, g golden) ([]point, uint64) {
	t.Helper()
	var all, sample []point
	seed, err := strconv.ParseUint(orElse(os.Getenv("FAULTS_SEED"), "1"), 10, 64)
	if err != nil || seed == 0 {
		t.Fatalf("FAULTS_SEED=%q: give it a number above 0", os.Getenv("FAULTS_SEED"))
	}
	random := rand.New(rand.NewPCG(seed, index))
	seen := map[position]int{}
	for i, w := range g.writes {
		at := position{step: g.place(i + 1).step, like: w.String()}
		seen[at]++ // nth is 0 here
		at.nth = seen[at]
		points := faultsAt(g, chapters[index], i+1, at)
		all = append(all, points...)
		// A status is written anew when it is not right: every other of its writes will do.
		if (index == 0 || g.place(i+1).step > 0) && (w.sub == "" || random.IntN(2) == 0) {
			sample = append(sample, points[random.IntN(len(points))])
		}
	}
	switch mode := os.Getenv("FAULTS"); mode {
	case "", "all":
		t.Logf("all %d points of %d writes", len(all), len(g.writes))
		return all, 0
	case "sample":
		t.Logf("%d of %d points, FAULTS_SEED=%d; FAULTS=all runs the rest too", len(sample), len(all), seed)
		return sample, seed
	default:
		t.Fatalf("FAULTS=%q: set it to sample or all", mode)
		return nil, 0
	}
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// judge compares a life with the golden one. The states of its steps, that nothing is left and that nothing more is written were looked at before.
func (l *lifeOfPool) judge(g golden) {
	l.t.Helper()
	lives := watcher.Seen(l.namespace)
	pools, groups := watcher.history(l.namespace)
	for _, lines := range [][]string{fixture.Outlived(lives, slices.Collect(maps.Keys(l.forced))...), crowded(lives, l.forced), unmarked(groups), groundless(pools, groups)} {
		for _, line := range lines {
			l.t.Error(line)
		}
	}
	for _, line := range l.story.sawPanic() {
		l.t.Errorf("the operator panicked: %s", line)
	}
	// A user who wants the first image again, and then the second after all, has each group made once more.
	times := 1
	if l.point.act == userReverts {
		times = 2
	}
	for name, n := range creates(lives) {
		if l.point.how != held && n > g.creates[name]*times {
			l.t.Errorf("%s was made %d times, golden is %d", name, n, g.creates[name])
		}
	}
	if l.point.how != never && !l.faulted {
		l.t.Logf("not reached: %s number %d of step %d; this life had fewer", l.point.at.like, l.point.at.nth, l.point.at.step+1)
	}
}
