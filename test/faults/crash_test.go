package faults

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
)

// point is one place in the life cycle where a fault happens, and what the user does then.
type point struct {
	k   int
	at  position
	how moment
	act act
}

func (p point) String() string {
	if p.how == never {
		return "a life without a fault"
	}
	return fmt.Sprintf("k=%d,%s,%s", p.k, p.how, p.act)
}

// golden is what a life without a fault does.
type golden struct {
	writes  []write
	creates map[string]int
	scaled  map[string]string
	// deleting is the first write after the user deleted the pool.
	deleting int
}

// goldenRuns is how often the life without a fault is run: what it makes and how it ends must be the same each time.
const goldenRuns = 3

// TestCrashAtEveryWrite is R1. FAULTS=sample runs each write's position with some of its faults, chosen by FAULTS_SEED; otherwise all run.
func TestCrashAtEveryWrite(t *testing.T) {
	all := &result{}
	t.Cleanup(func() { all.report(t) })
	g := goldenLife(t, all)
	points, seed := choose(t, g)
	all.planned, all.seed, all.writes = len(points), seed, len(g.writes)
	for _, p := range points {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			l := newLife(t, p)
			// Registered before the life begins, so that it runs when all else has ended: the end may fail too.
			t.Cleanup(func() { all.add(l) })
			l.begin()
			l.live(g.scaled)
			l.judge(g)
		})
	}
}

// goldenLife runs the life without a fault. The shortest run is the measure: its writes happen in every life.
func goldenLife(t *testing.T, all *result) golden {
	t.Helper()
	var g golden
	for i := range goldenRuns {
		l := newLife(t, point{how: never, act: restart})
		t.Cleanup(func() {
			if why := l.t.why(); why != "" {
				all.fail(l.point, why)
			}
		})
		l.begin()
		l.live(nil)
		l.stop()
		writes, _ := l.wire.sent()
		made := creates(watcher.seen(l.namespace))
		l.judge(golden{creates: made, scaled: l.scaled})
		if i > 0 && !maps.Equal(made, g.creates) {
			l.t.Fatalf("a life without a fault made %v, the one before made %v: there is nothing to compare with", made, g.creates)
		}
		if lines := difference(g.scaled, l.scaled); i > 0 && len(lines) > 0 {
			l.t.Fatalf("two lives without a fault differ: %v", lines)
		}
		if t.Failed() {
			t.FailNow()
		}
		l.untold = true
		if i == 0 || len(writes) < len(g.writes) {
			g = golden{writes: writes, creates: made, scaled: l.scaled, deleting: l.steps[len(l.steps)-1] + 1}
		}
	}
	t.Logf("W = %d, the first write of the deletion is %d:\n%s", len(g.writes), g.deleting, g)
	return g
}

func (g golden) String() string {
	var lines []string
	for i, w := range g.writes {
		lines = append(lines, fmt.Sprintf("%4d  %s", i+1, w))
	}
	return strings.Join(lines, "\n")
}

// choose returns the points to run, and the seed when they are a sample (0 when they are all).
func choose(t *testing.T, g golden) ([]point, uint64) {
	t.Helper()
	var all, sample []point
	seed, err := strconv.ParseUint(orElse(os.Getenv("FAULTS_SEED"), "1"), 10, 64)
	if err != nil || seed == 0 {
		t.Fatalf("FAULTS_SEED=%q: give it a number above 0", os.Getenv("FAULTS_SEED"))
	}
	random := rand.New(rand.NewPCG(seed, 0))
	like := map[string]int{}
	for i, w := range g.writes {
		like[w.String()]++
		k, at := i+1, position{w.String(), like[w.String()]}
		var crashes []point
		for _, how := range []moment{before, after} {
			crashes = append(crashes, point{k, at, how, restart}, point{k, at, how, userRescales})
			// Once the pool is deleted the user has no more to delete.
			if k < g.deleting {
				crashes = append(crashes, point{k, at, how, userDeletes})
			}
		}
		wait := point{k, at, held, userReplaces}
		all = append(append(all, crashes...), wait)
		random.Shuffle(len(crashes), func(i, j int) { crashes[i], crashes[j] = crashes[j], crashes[i] })
		sample = append(append(sample, crashes[:2]...), wait)
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

// judge compares a life with the golden one. That the pool is gone, nothing is left and nothing more is written was waited for before.
func (l *lifeOfPool) judge(g golden) {
	l.t.Helper()
	lives := watcher.seen(l.namespace)
	for _, line := range outlived(lives, l.forced) {
		l.t.Error(line)
	}
	for _, line := range crowded(lives) {
		l.t.Error(line)
	}
	for _, line := range l.story.sawPanic() {
		l.t.Errorf("the operator panicked: %s", line)
	}
	if l.point.how != held {
		for name, n := range creates(lives) {
			if n > g.creates[name] {
				l.t.Errorf("%s was made %d times, golden is %d", name, n, g.creates[name])
			}
		}
	}
	if l.scaled != nil {
		for _, line := range difference(g.scaled, l.scaled) {
			l.t.Error(line)
		}
	}
	if l.point.how != never && !l.faulted {
		l.t.Logf("not reached: %s number %d; this life had fewer", l.point.at.like, l.point.at.nth)
	}
}
