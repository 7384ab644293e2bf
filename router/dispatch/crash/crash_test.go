package crash

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Unix(1_700_000_000, 0)

func TestIntensityCountsTheWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := func() Limits {
			return Limits{MaxRestarts: rapid.IntRange(0, 6).Draw(t, "restarts"), Window: time.Duration(rapid.IntRange(1, 60).Draw(t, "window")) * time.Second}
		}
		var i Intensity
		l := limits()
		i.SetLimits(l)
		var deaths []time.Time
		now, known := start, 1<<30 // deaths that it can know of
		t.Repeat(map[string]func(*rapid.T){
			"die": func(*rapid.T) { i.Died(now); deaths = append(deaths, now); known++ },
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 30_000).Draw(t, "ms")) * time.Millisecond)
			},
			"limits": func(*rapid.T) {
				known = min(known, l.MaxRestarts+1)
				l = limits()
				i.SetLimits(l)
			},
			"": func(t *rapid.T) {
				recent := 0
				for k, at := range deaths {
					if now.Sub(at) < l.Window && len(deaths)-k <= known {
						recent++
					}
				}
				if got := i.Looping(now); got != (recent > l.MaxRestarts) {
					t.Fatalf("looping %v with %d deaths of %d in the window", got, recent, l.MaxRestarts)
				}
			},
		})
	})
}

func TestNoLimitsNeverLoop(t *testing.T) {
	var i Intensity
	for range 5000 {
		i.Died(start)
	}
	if i.Looping(start) || len(i.deaths) > MaxRestarts+1 {
		t.Fatalf("looping, or %d deaths kept", len(i.deaths))
	}
}

func TestQuarantineEqualsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type fact struct {
			deaths int
			until  time.Time
		}
		q, now := NewQuarantine(time.Minute), start
		model := map[string]fact{}
		key := rapid.SampledFrom([]string{"a", "b", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"die": func(t *rapid.T) {
				k := key.Draw(t, "key")
				f := model[k]
				if !now.Before(f.until) {
					f = fact{}
				}
				f.deaths++
				f.until = now.Add(time.Minute)
				model[k] = f
				if got := q.Died(k, now); got != (f.deaths >= 2) {
					t.Fatalf("%v after %d deaths", got, f.deaths)
				}
			},
			"survive": func(t *rapid.T) {
				k := key.Draw(t, "key")
				delete(model, k)
				q.Survived(k)
			},
			"time": func(t *rapid.T) { now = now.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "s")) * time.Second) },
			"": func(t *rapid.T) {
				for _, k := range []string{"a", "b", "c"} {
					f := model[k]
					want := f.deaths >= 2 && now.Before(f.until)
					if until, got := q.Blocked(k, now); got != want || got && !until.Equal(f.until) {
						t.Fatalf("%s: blocked %v until %v, want %v until %v", k, got, until, want, f.until)
					}
				}
			},
		})
	})
}

func TestQuarantineIsBounded(t *testing.T) {
	q := NewQuarantine(time.Minute)
	q.Died("first", start)
	for i := range 2 * MaxKeys {
		q.Died(fmt.Sprint(i), start)
	}
	if q.Len() != MaxKeys {
		t.Fatalf("%d keys", q.Len())
	}
	if q.Died("first", start) {
		t.Fatal("the oldest was not forgotten")
	}
	if q.Died(strings.Repeat("x", MaxKeyBytes+1), start); q.Len() != MaxKeys {
		t.Fatal("a long key is kept")
	}
	q.Expire(start.Add(time.Minute))
	if q.Len() != 0 {
		t.Fatalf("%d keys after their time", q.Len())
	}
}

func TestQuarantineSwitchedOff(t *testing.T) {
	q := NewQuarantine(time.Minute)
	q.Died("a", start)
	q.Died("a", start)
	q.SetDuration(0)
	if _, blocked := q.Blocked("a", start); blocked || q.Died("a", start) || q.Len() != 0 {
		t.Fatal("still blocks")
	}
}
