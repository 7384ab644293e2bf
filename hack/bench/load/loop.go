package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Probe is called at the first and at the last moment of the measured window.
type Probe func(begin bool)

// Sample is what one loop measured.
type Sample struct {
	// Latencies of the calls that ended within the window, ascending.
	Latencies []time.Duration
	// Window is how long it was.
	Window time.Duration
	// Late is, of an open loop, how much later than intended the median call began; it is part of the latency.
	Late time.Duration
}

// Phases of a loop.
const (
	warming int32 = iota
	measuring
	over
)

// recorder collects what the lanes see while the window is open.
type recorder struct {
	phase  atomic.Int32
	mu     sync.Mutex
	all    [][]time.Duration
	late   [][]time.Duration
	failed error
	stop   context.CancelFunc
}

// fail keeps the first failure and ends the loop: figures of a run with failed calls say nothing.
func (r *recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil {
		r.failed = err
		r.stop()
	}
}

func (r *recorder) hand(took, late []time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all, r.late = append(r.all, took), append(r.late, late)
}

// run warms up, opens the window, closes it, and waits for the lanes.
func (r *recorder) run(ctx context.Context, warm, window time.Duration, probe Probe, lanes int, lane func(int)) (Sample, error) {
	var group sync.WaitGroup
	for i := range lanes {
		group.Go(func() { lane(i) })
	}
	sleep(ctx, warm)
	probe(true)
	began := time.Now()
	r.phase.Store(measuring)
	sleep(ctx, window)
	r.phase.Store(over)
	length := time.Since(began)
	probe(false)
	group.Wait()
	r.stop()
	if r.failed != nil {
		return Sample{}, r.failed
	}
	return Sample{Latencies: sorted(r.all), Window: length, Late: Percentile(sorted(r.late), 0.5)}, nil
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// grace is what calls under way get when the window has closed.
const grace = 30 * time.Second

// Call makes one call in a lane; a lane makes one call at a time.
type Call func(ctx context.Context, lane int) error

// Closed keeps one call under way in each of the target's lanes. Open must have succeeded.
func (t *Target) Closed(ctx context.Context, warm, window time.Duration, probe Probe) (Sample, error) {
	return Closed(ctx, len(t.lanes), t.call, warm, window, probe)
}

// Closed keeps one call under way in each of so many lanes.
func Closed(ctx context.Context, lanes int, call Call, warm, window time.Duration, probe Probe) (Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, warm+window+grace)
	defer cancel()
	r := &recorder{stop: cancel}
	return r.run(ctx, warm, window, probe, lanes, func(i int) {
		took := make([]time.Duration, 0, 1<<14)
		for phase := warming; phase != over; {
			began := time.Now()
			err := call(ctx, i)
			ended := time.Now()
			phase = r.phase.Load()
			if err != nil {
				r.fail(err)
				return
			}
			if phase == measuring {
				took = append(took, ended.Sub(began))
			}
		}
		r.hand(took, nil)
	})
}

// Paced is the open loop: calls begin at random moments, so many a second on average, the same moments for the same seed. Latency counts from the
// moment at which a call was to begin, and every call that was to begin within the window counts, whenever it ends: a server that stalls delays
// the calls behind it, and their callers' waiting is not forgotten. The lanes bound the calls under way; waiting for a free one counts as well.
func (t *Target) Paced(ctx context.Context, rate float64, seed uint64, warm, window time.Duration, probe Probe) (Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, warm+window+grace)
	defer cancel()
	r := &recorder{stop: cancel}
	start := time.Now()
	opens, closes := start.Add(warm), start.Add(warm+window)
	next := schedule(start, rate, seed)
	return r.run(ctx, warm, window, probe, len(t.lanes), func(i int) {
		var took, late []time.Duration
		for {
			intended := next()
			if !intended.Before(closes) {
				break
			}
			sleep(ctx, time.Until(intended))
			began := time.Now()
			if err := t.call(ctx, i); err != nil {
				r.fail(fmt.Errorf("at %.0f calls/s: %w", rate, err))
				return
			}
			if !intended.Before(opens) {
				took, late = append(took, time.Since(intended)), append(late, began.Sub(intended))
			}
		}
		r.hand(took, late)
	})
}

// schedule returns the moments at which calls shall begin, one for each time it is called, from any goroutine.
func schedule(start time.Time, rate float64, seed uint64) func() time.Time {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0))
	at := start
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		at = at.Add(time.Duration(random.ExpFloat64() / rate * float64(time.Second)))
		return at
	}
}
