package membership

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// facts builds Facts; workers ready decides the condition.
func facts(ready, busy, sessions int32) Facts {
	status := metav1.ConditionFalse
	if ready > 1 {
		status = metav1.ConditionTrue
	}
	return Facts{
		Router:     v1alpha1.RouterStatus{PodUID: "pod-1", ReadyWorkers: ready, BusyWorkers: busy, Sessions: sessions},
		Conditions: []metav1.Condition{{Type: v1alpha1.ConditionWorkersReady, Status: status, Reason: v1alpha1.ReasonWorkersReady}},
	}
}

// event of a history: time passes, then facts may be reported, then a write that falls due may fail.
type event struct {
	pass   time.Duration
	report *Facts
	fail   bool
}

type decider func(ledger, *Facts, time.Time) decision

// playHistory runs a decider as the Reporter does, and returns the first promise that it broke.
func playHistory(decide decider, history []event) error {
	now := time.Unix(1_000_000, 0)
	var l ledger
	var wanted *Facts
	look := func(fail bool) error {
		if wanted == nil {
			return nil
		}
		next := decide(l, wanted, now)
		if !next.write {
			return nil
		}
		before := l
		l.lastAttempt = now
		if fail {
			l.written, l.retryAt = nil, now.Add(4*time.Second)
		} else {
			l.written, l.retryAt = wanted, time.Time{}
		}
		return broken(before, wanted, now)
	}
	for _, e := range history {
		now = now.Add(e.pass)
		if e.report != nil {
			wanted = normalized(*e.report)
		}
		if err := look(e.fail); err != nil {
			return err
		}
	}
	if wanted == nil {
		return nil
	}
	// Quiet: whatever was reported last must be written within a minute and the two intervals.
	for range 70 {
		now = now.Add(time.Second)
		if err := look(false); err != nil {
			return err
		}
	}
	if l.written == nil || !sameFacts(l.written, wanted) || !sameLoad(l.written, wanted) {
		return fmt.Errorf("after a minute of quiet %+v is still unwritten", wanted.Router)
	}
	return nil
}

// broken says which promise a write breaks.
func broken(before ledger, wanted *Facts, now time.Time) error {
	if before.lastAttempt.IsZero() {
		return nil
	}
	since := now.Sub(before.lastAttempt)
	switch {
	case since < factsInterval:
		return fmt.Errorf("written %v after the last write", since)
	case now.Before(before.retryAt):
		return fmt.Errorf("written during back-off")
	case before.written == nil || !sameFacts(before.written, wanted):
		return nil
	case sameLoad(before.written, wanted):
		return fmt.Errorf("written though nothing changed")
	case since < loadInterval:
		return fmt.Errorf("load written %v after the last write", since)
	}
	return nil
}

func TestDecideKeepsItsPromises(t *testing.T) {
	step := rapid.Custom(func(t *rapid.T) event {
		e := event{pass: time.Duration(rapid.IntRange(0, 90_000).Draw(t, "ms")) * time.Millisecond, fail: rapid.IntRange(0, 4).Draw(t, "fail") == 0}
		if rapid.Bool().Draw(t, "quick") {
			e.pass /= 50
		}
		if rapid.Bool().Draw(t, "report") {
			f := facts(rapid.Int32Range(0, 3).Draw(t, "ready"), rapid.Int32Range(0, 300).Draw(t, "busy"), rapid.Int32Range(0, 5000).Draw(t, "sessions"))
			e.report = &f
		}
		return e
	})
	rapid.Check(t, func(t *rapid.T) {
		if err := playHistory(decide, rapid.SliceOfN(step, 1, 40).Draw(t, "history")); err != nil {
			t.Fatal(err)
		}
	})
}

// The property test can fail: each seeded bug is found by it.
func TestSeededBugsAreFound(t *testing.T) {
	bugs := map[string]decider{
		"no spacing": func(l ledger, f *Facts, now time.Time) decision {
			l.lastAttempt = time.Time{}
			return decide(l, f, now)
		},
		"no back-off": func(l ledger, f *Facts, now time.Time) decision {
			l.retryAt = time.Time{}
			return decide(l, f, now)
		},
		"writes always": func(l ledger, f *Facts, now time.Time) decision {
			l.written = nil
			return decide(l, f, now)
		},
		"load is a fact": func(l ledger, f *Facts, now time.Time) decision {
			if l.written != nil && !sameLoad(l.written, f) {
				l.written = nil
			}
			return decide(l, f, now)
		},
		"load is never written": func(l ledger, f *Facts, now time.Time) decision {
			if l.written != nil && sameFacts(l.written, f) {
				return decision{}
			}
			return decide(l, f, now)
		},
	}
	for name, bug := range bugs {
		found := false
		for seed := uint64(0); seed < 200 && !found; seed++ {
			found = playHistory(bug, randomHistory(seed)) != nil
		}
		if !found {
			t.Errorf("%s: not found", name)
		}
	}
}

func randomHistory(seed uint64) []event {
	random := rand.New(rand.NewPCG(seed, 1))
	var history []event
	for range 30 {
		e := event{pass: time.Duration(random.IntN(3000)) * time.Millisecond, fail: random.IntN(5) == 0}
		if random.IntN(2) == 0 {
			f := facts(random.Int32N(3), random.Int32N(9), random.Int32N(9))
			e.report = &f
		}
		history = append(history, e)
	}
	return history
}

func TestTransitionTimeFollowsTheStatusOnly(t *testing.T) {
	start := time.Unix(5000, 700_000_000)
	first := dated(normalized(facts(1, 0, 0)), nil, start)
	if got := first.Conditions[0].LastTransitionTime.Time; !got.Equal(time.Unix(5000, 0)) {
		t.Errorf("first time is %v", got)
	}
	changed := facts(0, 0, 0)
	changed.Conditions[0].Reason, changed.Conditions[0].Message = v1alpha1.ReasonWorkersFailing, "other words"
	second := dated(normalized(changed), first.Conditions, start.Add(time.Hour))
	if !second.Conditions[0].LastTransitionTime.Equal(&first.Conditions[0].LastTransitionTime) {
		t.Error("the time moved with the words")
	}
	third := dated(normalized(facts(2, 0, 0)), second.Conditions, start.Add(2*time.Hour))
	if third.Conditions[0].LastTransitionTime.Equal(&first.Conditions[0].LastTransitionTime) {
		t.Error("the time did not move with the status")
	}
}

func TestRounding(t *testing.T) {
	for figure, want := range map[int32]int32{-1: 0, 0: 0, 9: 9, 10: 10, 11: 11, 99: 99, 100: 100, 104: 100, 105: 110, 994: 990, 995: 1000,
		12345: 12000, 2147483647: 2100000000} {
		if got := rounded(figure); got != want {
			t.Errorf("%d is rounded to %d, want %d", figure, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		figure := rapid.Int32Min(0).Draw(t, "figure")
		got := rounded(figure)
		if difference := int64(got) - int64(figure); difference*20 > int64(figure) || -difference*20 > int64(figure) {
			t.Fatalf("%d is rounded to %d: more than 5%% off", figure, got)
		}
		if rounded(got) != got {
			t.Fatalf("%d is not stable", got)
		}
	})
}

func TestTextIsBoundedAndPrintable(t *testing.T) {
	if got := bounded(" a\x1b[31m\tb\n\u200bc\xff é ", 256); got != "a[31m b c é" {
		t.Errorf("got %q", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text") + string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		limit := rapid.IntRange(0, 40).Draw(t, "limit")
		got := bounded(text, limit)
		if len(got) > limit || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%q", got)
		}
	})
}

func TestNormalizedKeepsOnlyWhatTheRouterOwns(t *testing.T) {
	given := facts(2, 123, 7)
	given.Conditions = append(given.Conditions, metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue})
	given.Router.Workers = []v1alpha1.WorkerStatus{{Slot: 2, LastError: strings.Repeat("é", 500)}, {Slot: 0, Incarnation: strings.Repeat("a", 99)}, {Slot: 2}}
	got := normalized(given)
	if len(got.Conditions) != 1 || got.Router.BusyWorkers != 120 || got.Router.Sessions != 7 {
		t.Errorf("got %+v", got)
	}
	workers := got.Router.Workers
	if len(workers) != 2 || workers[0].Slot != 0 || workers[1].Slot != 2 || len(workers[1].LastError) != 256 || len(workers[0].Incarnation) != 32 {
		t.Errorf("workers %+v", workers)
	}
	if given.Router.Workers[0].Slot != 2 {
		t.Error("the caller's slice was changed")
	}
	for slot := range int32(300) {
		given.Router.Workers = append(given.Router.Workers, v1alpha1.WorkerStatus{Slot: slot})
	}
	if got := normalized(given); len(got.Router.Workers) != 256 {
		t.Errorf("%d workers are written", len(got.Router.Workers))
	}
}
