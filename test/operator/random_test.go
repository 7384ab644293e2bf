package operator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/wire"
)

// action is one thing that a user does or that goes wrong. It does nothing where it does not apply, so that a story stays one when others are
// left out of it.
type action struct {
	name string
	n    int
	do   func(s *scene, n int) error
}

func (a action) String() string { return fmt.Sprintf("%s(%d)", a.name, a.n) }

// withPool is an action for a pool that exists.
func withPool(do func(s *scene, n int) error) func(*scene, int) error {
	return func(s *scene, n int) error {
		if !s.exists {
			return nil
		}
		return do(s, n)
	}
}

// actions are all that may happen in R14, each with how many kinds of it there are.
var actions = []action{
	{"create", 4, func(s *scene, n int) error {
		if s.exists {
			return nil
		}
		return s.remakeAs(int32(n + 1))
	}},
	{"scale", 5, withPool(func(s *scene, n int) error { return s.scale(int32(n)) })},
	{"queue", 3, withPool(func(s *scene, n int) error { return s.change(fmt.Sprintf(`{"spec":{"queue":{"maxLength":%d}}}`, n+10)) })},
	{"image", 3, withPool(func(s *scene, n int) error { return s.image(fmt.Sprint(n)) })},
	{"recycle", 3, withPool(func(s *scene, n int) error {
		return s.change(fmt.Sprintf(`{"metadata":{"annotations":{"snakepit.dev/recycle":"r%d"}}}`, n))
	})},
	{"losePod", 1, withPool(func(s *scene, _ int) error { return s.losePod() })},
	{"strip", 1, withPool(func(s *scene, _ int) error {
		_, err := s.inflict(injury{name: bare, kind: "Pod", patch: `{"metadata":{"labels":null,"ownerReferences":null}}`})
		return ignoreMissing(err)
	})},
	{"loseChild", len(fixture.Kinds) - 3, withPool(func(s *scene, n int) error {
		_, err := s.inflict(injury{kind: fixture.Kinds[n+3].Kind})
		return ignoreMissing(err)
	})},
	{"delete", 1, withPool(func(s *scene, _ int) error { return s.delete() })},
	{"restart", 1, func(s *scene, _ int) error { return s.again(false) }},
	{"crash", 1, func(s *scene, _ int) error { return s.again(true) }},
	{"lag", 4, func(s *scene, n int) error {
		s.wire.Lag(time.Duration(n)*100*time.Millisecond, watched...)
		return nil
	}},
	{"storm", 3, func(s *scene, n int) error {
		kinds, _ := storms()
		s.wire.Storm(wire.Storm{Rate: float64(n) / 10, Kinds: kinds[0].kinds, Seed: seed})
		return nil
	}},
	{"expire", 1, func(s *scene, _ int) error {
		s.wire.Expire(watched...)
		return nil
	}},
	{"quiet", 1, func(s *scene, _ int) error { return s.calm() }},
}

// errMissing: the operator has not made, or has not yet removed, what an action is about.
var errMissing = errors.New("not one object")

func ignoreMissing(err error) error {
	if errors.Is(err, errMissing) {
		return nil
	}
	return client.IgnoreNotFound(err)
}

// again ends the operator and starts another. One that crashes has nothing more to say to the API server.
func (s *scene) again(crash bool) error {
	if crash {
		s.wire.Cut()
	}
	err := s.stop()
	s.wire.Storm(wire.Storm{})
	s.wire.Mend()
	if err != nil {
		return err
	}
	return s.start()
}

// remakeAs creates the pool as soon as the one before is gone.
func (s *scene) remakeAs(workers int32) error {
	if s.pool == nil {
		return s.create(workers)
	}
	return s.wait(limit, "the pool can be made again", func() error { return s.create(workers) })
}

// calm is a quiet point: all trouble ends, and everything must become as asked.
func (s *scene) calm() error {
	s.wire.Lag(0, watched...)
	s.wire.Storm(wire.Storm{})
	return s.reach()
}

// draw makes the story of a seed: a quiet point after every fourth action.
func draw(seed uint64, steps int) []action {
	random := rand.New(rand.NewPCG(seed, 14))
	story := []action{actions[0]}
	for n := range steps {
		a := actions[random.IntN(len(actions)-1)]
		a.n = random.IntN(a.n)
		story = append(story, a)
		if n%4 == 3 {
			// A story without a pool would show nothing.
			story = append(story, actions[len(actions)-1], action{actions[0].name, n % actions[0].n, actions[0].do})
		}
	}
	return story
}

// play carries out a story in a namespace of its own and returns what was wrong. At its end nothing may be left.
func play(ctx context.Context, story []action) (err error) {
	s, err := open(ctx)
	if err != nil {
		return err
	}
	if err := s.start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	for i, a := range story {
		if s.pool == nil && a.name == "quiet" {
			continue
		}
		if err := a.do(s, a.n); err != nil {
			return fmt.Errorf("at %d, %s: %w", i, a, err)
		}
	}
	if s.pool == nil {
		return nil
	}
	if err := s.delete(); err != nil {
		return err
	}
	if err := s.calm(); err != nil {
		return fmt.Errorf("at the end: %w", err)
	}
	lives, err := s.lives()
	if err != nil {
		return err
	}
	if lines := fixture.Outlived(lives); len(lines) > 0 {
		return errors.New(strings.Join(lines, "; "))
	}
	if peak := fixture.Peak(fixture.Owned(lives, "WorkerGroup")); peak > 1 {
		return fmt.Errorf("%d groups at the same time", peak)
	}
	return nil
}

// shrinks bounds how often a failed story is played again to make it shorter.
const shrinks = 12

// shorten leaves out of a failed story what it fails without.
func shorten(ctx context.Context, story []action, why error) ([]action, error) {
	tries := 0
	for size := max(1, len(story)/2); size >= 1; size /= 2 {
		for at := 1; at < len(story) && tries < shrinks; {
			shorter := append(append([]action(nil), story[:at]...), story[min(at+size, len(story)):]...)
			tries++
			if err := play(ctx, shorter); err != nil {
				story, why = shorter, err
				continue
			}
			at += size
		}
	}
	return story, why
}

// TestRandomStories is R14: random actions of users, and faults. A failure names its seed and the shortest story that was found to fail; both
// are repeated with FAULTS_SEED and the name of the test.
func TestRandomStories(t *testing.T) {
	t.Parallel()
	seeds, steps := 3, 12
	if everything {
		seeds, steps = 30, 24
	}
	var failed atomic.Int64
	t.Run("of", func(t *testing.T) {
		for n := range seeds {
			its := seed*1000 + uint64(n)
			t.Run(fmt.Sprintf("seed=%d", its), func(t *testing.T) {
				t.Parallel()
				story := draw(its, steps)
				if err := play(t.Context(), story); err != nil {
					failed.Add(1)
					short, why := shorten(t.Context(), story, err)
					t.Errorf("FAULTS_SEED=%d, seed=%d: %v\nwhole story: %v\nshortest found: %v\nwhich says: %v", seed, its, err, story, short, why)
				}
			})
		}
	})
	tell(t, "R14", seeds*steps, fixture.Figure{Figure: "seeds × steps", Value: float64(seeds * steps), Unit: "steps", OK: true},
		atMost("failed", float64(failed.Load()), "stories", 0))
}
