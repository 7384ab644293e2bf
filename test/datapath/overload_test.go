package datapath

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// work is a call that takes 30 ms of a worker and next to nothing of the machine, so that what limits is the number of workers: with calls of 5 ms
// two cores would be busy with the load itself.
var work = arguments{"seconds": number(0.03)}

// patience of the callers under overload.
const patience = 500 * time.Millisecond

// capacity is what the pool answers to callers that wait for each other, in calls/s.
func (s *stage) capacity(callers int) float64 {
	const length = 1500 * time.Millisecond
	return float64(good(closedLoop(callers, length, func() answer { return s.call("nap", work) }))) / length.Seconds()
}

// TestS11Overload offers 1, 2 and 5 times of what the workers can do: what is answered must not shrink, and what is not is refused at once.
func TestS11Overload(t *testing.T) {
	const workers, wanted, length = 4, 3, 1500 * time.Millisecond
	s := newStage(t, fmt.Sprintf("workers: %d\nqueue: {maxLength: 200, perSession: 1, timeout: 30s}\n", workers))
	s.expectReady(workers)
	capacity := s.capacity(2 * workers)
	var ratios []float64
	var refused []sample
	rounds := 0
	for ; len(ratios) < wanted && rounds < 2*wanted; rounds++ {
		ratio, early := s.overload(capacity, length)
		refused = append(refused, early...)
		if late := quantile(durations(early), 0.99); late > 100*time.Millisecond && rounds-len(ratios) < wanted {
			t.Logf("not counted: callers were told of refusals after %s, so that the machine had no room for the load", late)
			continue
		}
		ratios = append(ratios, ratio)
	}
	inRouter, probes := s.refusedInRouter(5 * capacity)
	bare := 0
	for _, r := range refused {
		hint, pushback := r.retry()
		if ms, err := strconv.Atoi(pushback); hint <= 0 || err != nil || ms <= 0 {
			bare++
		}
	}
	void := ""
	if capacity < 50 || len(refused) < 200 || probes < 50 {
		void = fmt.Sprintf("capacity %.0f calls/s, %d early refusals, %.0f probes; at least 50, 200 and 50 are wanted", capacity, len(refused), probes)
	}
	report(t, "S11", void, len(ratios), told("capacity", capacity, "calls/s"), told("early refusals", float64(len(refused)), "calls"),
		byClock(atLeast("goodput at 5x, of the peak at 1x and 2x, median of rounds", median(ratios), 0.9, "ratio")),
		byClock(atMost("refusal p99 in the router (upper end of its bucket)", inRouter*1000, 10, "ms")),
		// What a caller sees is the time of this process too, whose calls keep the machine busy: that is told only.
		told("refusal p99 at the caller", milliseconds(quantile(durations(refused), 0.99)), "ms"),
		atMost("refusals without RetryInfo or pushback", float64(bare), 0, "calls"))
	s.expectIdle()
}

// TestS11BesideAVeryLongCall holds one of three workers by a call that lasts: the other two must not take what they cannot do in time.
func TestS11BesideAVeryLongCall(t *testing.T) {
	const workers, rounds, length = 3, 3, 1500 * time.Millisecond
	s := newStage(t, fmt.Sprintf("workers: %d\nqueue: {maxLength: 200, perSession: 1, timeout: 30s}\n", workers))
	s.expectReady(workers)
	stop := s.fillSession()
	capacity := s.capacity(2 * workers)
	var ratios []float64
	refused := 0
	for range rounds {
		ratio, early := s.overload(capacity, length)
		ratios, refused = append(ratios, ratio), refused+len(early)
	}
	void := ""
	if capacity < 30 || refused < 100 {
		void = fmt.Sprintf("capacity %.0f calls/s, %d early refusals; at least 30 and 100 are wanted", capacity, refused)
	}
	report(t, "S11", void, rounds, told("capacity beside a very long call", capacity, "calls/s"),
		byClock(atLeast("goodput at 5x beside a very long call, of the peak, median of rounds", median(ratios), 0.9, "ratio")))
	stop()
	s.expectIdle()
}

// overload offers 1, 2 and 5 times the capacity: what is answered in time at 5x, of the most at 1x and 2x, and what was refused at once at 5x.
func (s *stage) overload(capacity float64, length time.Duration) (ratio float64, early []sample) {
	peak, answered := 1.0, 0.0
	for _, factor := range []float64{1, 2, 5} {
		all := openLoop(factor*capacity, length, func(int) answer { return s.within(patience, "nap", work) })
		peak = math.Max(peak, answered)
		answered, early = float64(good(all)), refusals(all)
		s.t.Logf("%gx: %d calls, %g answered in time, %d refused at once", factor, len(all), answered, len(early))
	}
	return answered / peak, early
}

// refusedInRouter is how long the router takes to refuse a call under load: calls of a tool that nobody else calls, in a session whose queue is full.
func (s *stage) refusedInRouter(rate float64) (p99, probes float64) {
	stop := s.fillSession()
	defer stop()
	openLoop(rate, 1500*time.Millisecond, func(n int) answer {
		if n%5 == 0 {
			if a := s.within(patience, "pid", nil, "snakepit-session", "full"); a.err == nil {
				s.t.Errorf("a session with a full queue took a call")
			}
		}
		return s.within(patience, "nap", work)
	})
	return s.slowest("pid", 0.99)
}

// refusals are the calls that were refused before they had a worker, and not by their own deadline.
func refusals(all []sample) (early []sample) {
	for _, r := range all {
		if r.reason() == "QUEUE_FULL" || r.reason() == "DEADLINE_UNREACHABLE" {
			early = append(early, r)
		}
	}
	return early
}

// fillSession keeps one session's queue full until stop: one of its calls runs, one waits. It takes one worker away from the load.
func (s *stage) fillSession() (stop func()) {
	s.t.Helper()
	if a := s.call("count", nil, "snakepit-session", "full", "snakepit-session-create", "true"); a.err != nil {
		s.t.Fatal(a.err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for _, metric := range []string{"snakepit_router_calls_in_flight", "snakepit_router_queue_length"} {
		group.Go(func() { s.callIn(ctx, "sleep", arguments{"seconds": number(60)}, "snakepit-session", "full") })
		fixture.Eventually(s.t, 10*time.Second, "a call that holds the session", func() error {
			if n := s.metric(metric); n != "1" {
				return fmt.Errorf("%s is %s", metric, n)
			}
			return nil
		})
	}
	return func() {
		cancel()
		group.Wait()
	}
}

// slowest is the upper end of the router's bucket that the quantile of a tool's calls is in, in seconds, and how many calls there were.
func (s *stage) slowest(tool string, q float64) (seconds, count float64) {
	count = s.value(fmt.Sprintf(`snakepit_router_call_duration_seconds_count{tool=%q}`, tool))
	end := 0.0005
	for range 16 {
		le := strconv.FormatFloat(end, 'g', -1, 64)
		if below := s.value(fmt.Sprintf(`snakepit_router_call_duration_seconds_bucket{tool=%q,le=%q}`, tool, le)); below >= q*count {
			return end, count
		}
		end *= 2.5
	}
	return math.Inf(1), count
}

// TestS11BoundSessionsFirst floods one worker with new sessions: one that lives there already must not wait behind them.
func TestS11BoundSessionsFirst(t *testing.T) {
	const length = 3 * time.Second
	s := newStage(t, "workers: 1\nsessions: {maxPerWorker: 10000}\nqueue: {maxLength: 100, timeout: 10s}\n")
	s.expectReady(1)
	if a := s.call("count", nil, "snakepit-session", "old", "snakepit-session-create", "true"); a.err != nil {
		t.Fatal(a.err)
	}
	capacity := s.capacity(3)
	var bound []sample
	done := make(chan struct{})
	go func() {
		defer close(done)
		bound = closedLoop(1, length, func() answer {
			return s.call("count", arguments{"pause": number(0.03)}, "snakepit-session", "old")
		})
	}()
	fresh := openLoop(3*capacity, length, func(n int) answer {
		return s.call("count", arguments{"pause": number(0.03)}, "snakepit-session", fmt.Sprint("new-", n), "snakepit-session-create", "true")
	})
	<-done
	var waited []time.Duration
	for _, x := range fresh {
		if x.err == nil {
			waited = append(waited, x.took)
		}
	}
	void := ""
	if len(bound) < 20 || len(waited) < 20 || len(fresh) < 2*len(waited) {
		void = fmt.Sprintf("%d calls of the bound session, %d of new ones were offered and %d served", len(bound), len(fresh), len(waited))
	}
	report(t, "S11", void, 1, told("new sessions offered", float64(len(fresh)), "sessions"), told("new sessions served", float64(len(waited)), "sessions"),
		told("wait of the bound session's calls, p50", milliseconds(median(durations(bound))), "ms"), told("wait of new sessions' calls, p50", milliseconds(median(waited)), "ms"),
		atLeast("success of the bound session", share(bound), 1, "ratio"),
		byClock(atMost("wait of the bound session, of that of new ones", milliseconds(median(durations(bound)))/milliseconds(median(waited)), 0.5, "ratio")))
	s.expectIdle()
}

// TestS11TenantsShare lets one tenant send 100 times the calls of another, five times of what the workers can do: the modest one is served.
func TestS11TenantsShare(t *testing.T) {
	const workers, length = 4, 6 * time.Second
	s := newStage(t, fmt.Sprintf("workers: %d\nqueue: {maxLength: 200, timeout: 10s}\n", workers))
	s.expectReady(workers)
	rate := 5 * s.capacity(2*workers)
	var modest []sample
	done := make(chan struct{})
	go func() {
		defer close(done)
		modest = openLoop(rate/100, length, func(int) answer { return s.within(patience, "nap", work, "snakepit-tenant", "modest") })
	}()
	greedy := openLoop(rate, length, func(int) answer { return s.within(patience, "nap", work, "snakepit-tenant", "greedy") })
	<-done
	void := ""
	if len(modest) < 20 || len(greedy) < 90*len(modest) || share(greedy) > 0.6 {
		void = fmt.Sprintf("%d calls of the modest tenant, %d of the greedy one, of which %.2f were served", len(modest), len(greedy), share(greedy))
	}
	report(t, "S11", void, 1, told("calls of the modest tenant", float64(len(modest)), "calls"), told("calls of the greedy tenant", float64(len(greedy)), "calls"),
		told("served of the greedy tenant", share(greedy), "ratio"), atLeast("served of the modest tenant", share(modest), 0.95, "ratio"))
	s.expectIdle()
}
