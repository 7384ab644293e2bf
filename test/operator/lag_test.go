package operator

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// lagged is one kind of lag: whose watches come how late.
type lagged struct {
	name      string
	by        time.Duration
	resources []string
}

// lags are all that R2 names. The sample has each time once, with one of the resources.
func lags() []lagged {
	pods, ours := []string{"pods"}, []string{"workerpools", "workergroups"}
	random := rand.New(rand.NewPCG(seed, 2))
	var all []lagged
	for _, by := range []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second} {
		some := []lagged{{"pods", by, pods}, {"ours", by, ours}, {"both", by, append(pods[:1:1], ours...)}}
		if !everything {
			n := random.IntN(len(some))
			some = some[n : n+1]
		}
		all = append(all, some...)
	}
	return all
}

// needed is what a life of story makes at the least: a second group for the second image, a second pod for it and a third for the lost one.
var needed = map[string]int{"WorkerGroup": 2, "Pod": 3, "Service": 1, "ServiceAccount": 1, "Role": 1, "RoleBinding": 1, "PodDisruptionBudget": 1}

// story is a whole life: create, scale, another image, the pod is lost, delete.
func story(s *scene) error {
	steps := []struct {
		name string
		do   func() error
	}{
		{"create", func() error { return s.create(2) }},
		{"scale", func() error { return s.scale(4) }},
		{"image", func() error { return s.image("2") }},
		{"pod loss", s.losePod},
		{"delete", s.delete},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if err := s.reach(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// excess is how often something was made that was not needed, in a life of story, and what was there beside its like.
func excess(lives []fixture.Life) (made, least, beside int, lines []string) {
	for kind, n := range needed {
		least += n
		all := fixture.Owned(lives, kind)
		made += len(all)
		if len(all) != n {
			lines = append(lines, fmt.Sprintf("%d made of kind %s, needed are %d: %v", len(all), kind, n, all))
		}
		if peak := fixture.Peak(all); peak > 1 {
			beside = max(beside, peak-1)
			lines = append(lines, fmt.Sprintf("%d of kind %s at the same time: %v", peak, kind, all))
		}
	}
	return made, least, beside, append(lines, fixture.Outlived(lives)...)
}

// TestWatchLag is R2: whatever the operator's cache does not show yet, nothing is made twice.
func TestWatchLag(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	runs, made, least, beside := 0, 0, 0, 0
	t.Run("of", func(t *testing.T) {
		for _, lag := range lags() {
			t.Run(fmt.Sprintf("%s,%s,seed=%d", lag.name, lag.by, seed), func(t *testing.T) {
				t.Parallel()
				s := begin(t)
				s.wire.Lag(lag.by, lag.resources...)
				must(t, story(s))
				lives, err := s.lives()
				must(t, err)
				m, l, b, lines := excess(lives)
				for _, line := range lines {
					t.Error(line)
				}
				mu.Lock()
				defer mu.Unlock()
				runs, made, least, beside = runs+1, made+m, least+l, max(beside, b)
			})
		}
	})
	if runs == 0 {
		return
	}
	ratio := float64(made) / float64(least)
	tell(t, "R2", runs,
		fixture.Figure{Figure: "creates / needed", Value: ratio, Unit: "ratio", Bound: "<=1", OK: made == least},
		atMost("peak excess", float64(beside), "objects", 0))
}
