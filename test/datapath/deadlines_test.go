package datapath

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	rpcv1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
)

// watched is one call whose caller gives up, as both sides saw it.
type watched struct {
	key  string
	deaf bool
	// deadline is the caller's, zero for none; gaveUp is when it expired, was cancelled, or its connection was closed.
	deadline, gaveUp time.Time
	code             codes.Code
}

func watchArguments(key string, seconds float64, deaf bool) arguments {
	return arguments{"key": text(key), "seconds": number(seconds), "deaf": {Kind: &rpcv1.Value_Boolean{Boolean: deaf}}}
}

// noted reads a time that a handler wrote down; zero when it wrote none.
func noted(marks map[string]int, key, what string) time.Time {
	for line := range marks {
		if ns, ok := strings.CutPrefix(line, key+":"+what+":"); ok {
			if n, err := strconv.ParseInt(ns, 10, 64); err == nil && n > 0 {
				return time.Unix(0, n)
			}
		}
	}
	return time.Time{}
}

// deadlined calls with a deadline that passes while the handler runs.
func (s *stage) deadlined(key string, limit time.Duration, deaf bool) watched {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	w := watched{key: key, deaf: deaf}
	w.deadline, _ = ctx.Deadline()
	w.gaveUp = w.deadline
	w.code = status.Code(s.callIn(ctx, "watch", watchArguments(key, handlerSeconds(limit, deaf), deaf)).err)
	return w
}

// handlerSeconds is how long a handler would run: a cooperative one far longer than its caller waits, a deaf one a little.
func handlerSeconds(limit time.Duration, deaf bool) float64 {
	if deaf {
		return limit.Seconds() + 0.3
	}
	return limit.Seconds() + 10
}

// given calls without a deadline, and gives up once the handler runs: cancelled, or with its connection.
func (s *stage) given(key string, deaf, vanish bool) watched {
	conn := s.dial()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := watched{key: key, deaf: deaf}
	done := make(chan error, 1)
	go func() {
		_, err := rpcv1.NewPoolClient(conn).Execute(ctx, &rpcv1.ExecuteRequest{Tool: "watch", Arguments: watchArguments(key, handlerSeconds(0, deaf), deaf)})
		done <- err
	}()
	s.awaitNote(key, "left")
	w.gaveUp = time.Now()
	if vanish {
		_ = conn.Close()
	} else {
		cancel()
	}
	w.code = status.Code(<-done)
	return w
}

// farDeadline calls with a deadline that nobody waits for, and reports by how much the worker's differs. The caller leaves once it is written down.
func (s *stage) farDeadline(limit time.Duration) time.Duration {
	s.t.Helper()
	const key = "s7-far"
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	want, _ := ctx.Deadline()
	done := make(chan answer, 1)
	go func() { done <- s.callIn(ctx, "watch", watchArguments(key, 10, false)) }()
	s.awaitNote(key, "left")
	cancel()
	if a := <-done; status.Code(a.err) != codes.Canceled {
		s.t.Errorf("the caller who left was told %v", a.err)
	}
	s.awaitNote(key, "cancelled")
	off := noted(s.marks(), key, "left").Sub(want).Abs()
	if off > limit/100 {
		s.t.Errorf("a deadline in %s is off by %s at the worker", limit, off)
	}
	return off
}

func (s *stage) awaitNote(key, what string) {
	s.t.Helper()
	eventually(s.t, what+" of "+key, func() error {
		for line := range s.marks() {
			if strings.HasPrefix(line, key+":"+what+":") {
				return nil
			}
		}
		return errors.New("not written down")
	})
}

// TestS7Deadlines lets callers give up in every way while handlers run: the worker is told, the slot becomes free, and no worker is ended for it.
func TestS7Deadlines(t *testing.T) {
	const workers, rounds = 4, 12
	s := newStage(t, fmt.Sprintf("workers: %d\nqueue: {timeout: 60s}\ncalls: {timeout: 2h, killAfter: 1s}\n", workers))
	s.expectReady(workers)
	pids := s.workers(workers)
	limits := []time.Duration{time.Millisecond, 5 * time.Millisecond, 30 * time.Millisecond, 150 * time.Millisecond, 400 * time.Millisecond, time.Second}
	var all []watched
	var mu sync.Mutex
	var group sync.WaitGroup
	for lane := range workers {
		group.Go(func() {
			for round := range rounds {
				key, deaf := fmt.Sprintf("s7-%d-%d", lane, round), round%3 == 2
				var w watched
				switch lane {
				case 0, 1:
					w = s.deadlined(key, limits[(round+lane)%len(limits)], deaf)
				default:
					w = s.given(key, deaf, lane == 3)
				}
				mu.Lock()
				all = append(all, w)
				mu.Unlock()
			}
		})
	}
	group.Go(func() { // one long deadline, far beyond the others
		w := s.deadlined("s7-long", 10*time.Second, false)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, w)
	})
	group.Wait()
	s.expectIdle()
	s.judgeDeadlines(all)
	off := s.farDeadline(time.Hour)
	report(t, "S7", "", 1, byClock(atMost("deadline in an hour, as seen by the worker, is off by", milliseconds(off), 100, "ms")))
	leaked := 0
	if now := s.workers(workers); !same(pids, now) || s.total("snakepit_worker_restarts_total") != 0 {
		t.Errorf("workers %v became %v", pids, now)
		leaked++
	}
	report(t, "S7", "", 1, atMost("workers ended by a caller's deadline", float64(leaked), 0, "pools"))
	s.fillAllSlots(workers)
}

// judgeDeadlines compares what handlers wrote down with what their callers did.
func (s *stage) judgeDeadlines(all []watched) {
	s.t.Helper()
	marks := s.marks()
	var lags, drifts []time.Duration
	wrong, begun := 0, 0
	for _, w := range all {
		want := codes.Canceled
		if !w.deadline.IsZero() {
			want = codes.DeadlineExceeded
		}
		if w.code != want && w.code != codes.ResourceExhausted { // refused: the deadline could not be met
			wrong++
			s.t.Errorf("%s: the caller was told %v", w.key, w.code)
		}
		ended, cancelled := noted(marks, w.key, "ended"), noted(marks, w.key, "cancelled")
		if ended.IsZero() {
			continue // it never began
		}
		begun++
		if left := noted(marks, w.key, "left"); !w.deadline.IsZero() {
			drifts = append(drifts, left.Sub(w.deadline).Abs())
		}
		if w.deaf {
			continue
		}
		if cancelled.IsZero() {
			wrong++
			s.t.Errorf("%s: its handler was not told", w.key)
			continue
		}
		lags = append(lags, cancelled.Sub(w.gaveUp))
	}
	void := ""
	if len(lags) < 20 || len(drifts) < 10 {
		void = fmt.Sprintf("%d calls began, %d lags, %d deadlines", begun, len(lags), len(drifts))
	}
	report(s.t, "S7", void, 1, told("calls", float64(len(all)), "calls"), told("calls begun", float64(begun), "calls"),
		atMost("callers told wrongly, or handlers not told", float64(wrong), 0, "calls"),
		byClock(atMost("cancel lag, p99", percentile(lags, 99).Seconds()*1000, 100, "ms")), told("cancel lag, median", percentile(lags, 50).Seconds()*1000, "ms"),
		byClock(atMost("deadline seen by the worker is off by, median", percentile(drifts, 50).Seconds()*1000, 100, "ms")))
}

// percentile of some durations; 0 of none.
func percentile(all []time.Duration, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(len(all)-1, len(all)*p/100)]
}

// fillAllSlots shows that every slot takes a call: one that leaked would leave its call in the queue.
func (s *stage) fillAllSlots(slots int) {
	s.t.Helper()
	var group sync.WaitGroup
	for i := range slots {
		group.Go(func() {
			if a := s.call("mark", arguments{"key": text(fmt.Sprint("slot-", i)), "seconds": number(3)}); a.err != nil {
				s.t.Errorf("a call to slot: %v", a.err)
			}
		})
	}
	most := 0
	eventually(s.t, "a call in every slot", func() error {
		if most = max(most, s.total("snakepit_router_calls_in_flight")); most < slots {
			return fmt.Errorf("%d of %d", most, slots)
		}
		return nil
	})
	group.Wait()
	report(s.t, "S7", "", 1, atMost("leaked slots", float64(slots-most), 0, "slots"))
	s.expectIdle()
}
