package operator

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/wire"
)

// routerPeriod is how often a router may write its part of a group's status.
const routerPeriod = 2 * time.Second

// window is how long nothing may happen.
func window() time.Duration {
	if everything {
		return 2 * time.Minute
	}
	return 15 * time.Second
}

// spent is how many calls were made between two counts, without the renewal of watches.
func spent(before, after map[wire.Call]int) (writes, reads int, lines []string) {
	for call, n := range after {
		n -= before[call]
		if n == 0 || call.Verb == "watch" {
			continue
		}
		lines = append(lines, fmt.Sprintf("%d × %s", n, call))
		if call.Writes() {
			writes += n
		} else {
			reads += n
		}
	}
	return writes, reads, lines
}

// TestNothingAtRest is R9: where nothing happens, the operator neither writes nor reads.
func TestNothingAtRest(t *testing.T) {
	t.Parallel()
	s := begin(t)
	must(t, s.create(3))
	must(t, s.reach())
	before := s.wire.Counts()
	idle(t, window(), window(), func(int) {})
	writes, reads, lines := spent(before, s.wire.Counts())
	for _, line := range lines {
		t.Errorf("within %s of rest: %s", window(), line)
	}
	tell(t, "R9", 1,
		fixture.Figure{Figure: "quiet window", Value: window().Seconds(), Unit: "s", OK: true},
		atMost("writes at rest", float64(writes), "calls", 0),
		atMost("reads at rest", float64(reads), "calls", 0))
	must(t, s.delete())
	must(t, s.reach())
}

// TestRouterNoise is R9 with a router that has news as often as it may tell it: the operator writes no oftener.
func TestRouterNoise(t *testing.T) {
	t.Parallel()
	s := begin(t)
	must(t, s.create(3))
	must(t, s.reach())
	before := s.wire.Counts()
	sent := 0
	idle(t, window(), routerPeriod, func(n int) {
		sent++
		must(t, s.busy(n%4))
	})
	writes, reads, lines := spent(before, s.wire.Counts())
	if sent == 0 {
		t.Fatal("void: the router had no news")
	}
	budget := window().Seconds() / routerPeriod.Seconds()
	if float64(writes) > budget || reads > 0 {
		t.Errorf("%d writes for %d reports of the router within %s, allowed are %g; %d reads: %v", writes, sent, window(), budget, reads, lines)
	}
	tell(t, "R9", 1, atMost("writes under router noise", float64(writes)/window().Seconds(), "writes/s", 1/routerPeriod.Seconds()))
	must(t, s.delete())
	must(t, s.reach())
}

// busy reports a number of workers that serve a call.
func (s *scene) busy(n int) error {
	group, err := s.group()
	if err != nil {
		return err
	}
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"status":{"router":{"busyWorkers":%d}}}`, n))
	return s.client.Status().Patch(s.ctx, group, patch, client.FieldOwner(v1alpha1.FieldManagerRouter))
}

// idle lasts so long and calls do once a period within, with the number of the time.
func idle(t *testing.T, long, period time.Duration, do func(n int)) {
	t.Helper()
	end := time.NewTimer(long)
	defer end.Stop()
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for n := 1; ; n++ {
		select {
		case <-end.C:
			return
		case <-t.Context().Done():
			return
		case <-ticker.C:
			if period < long {
				do(n)
			}
		}
	}
}
