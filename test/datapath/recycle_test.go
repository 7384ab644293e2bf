package datapath

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// lookout watches how many workers are ready, until it is told to stop.
type lookout struct {
	fewest, looks int
	stop          chan struct{}
	done          chan struct{}
}

func (s *stage) lookout() *lookout {
	l := &lookout{fewest: 1 << 20, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-ticker.C:
				if n, err := strconv.Atoi(s.metric(`snakepit_router_workers{state="Ready"}`)); err == nil {
					l.fewest = min(l.fewest, n)
					l.looks++
				}
			}
		}
	}()
	return l
}

func (l *lookout) end() {
	close(l.stop)
	<-l.done
}

// TestRecycleByRequests recycles workers every 40 calls under load: a replacement is ready first, and no call notices.
func TestRecycleByRequests(t *testing.T) {
	const workers, callers, length = 2, 4, 6 * time.Second
	s := newStage(t, fmt.Sprintf("workers: %d\nrecycle: {maxRequests: 40, jitter: 0, deadline: 5s}\nqueue: {timeout: 20s}\n", workers))
	s.expectReady(workers)
	l := s.lookout()
	var calls, failed atomic.Int64
	var mu sync.Mutex
	pids := map[int64]int{}
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for end := time.Now().Add(length); time.Now().Before(end); {
				a := s.call("pid", nil)
				calls.Add(1)
				if a.err != nil {
					failed.Add(1)
					t.Errorf("a call while workers are recycled: %v", a.err)
				}
				mu.Lock()
				if a.err == nil {
					pids[a.value.GetInteger()]++
				}
				mu.Unlock()
				time.Sleep(2 * time.Millisecond) // of the caller's own work
			}
		})
	}
	group.Wait()
	l.end()
	recycled, most := len(pids)-workers, 0
	for _, n := range pids {
		most = max(most, n)
	}
	void := ""
	if recycled < 3 || l.looks < 100 {
		void = fmt.Sprintf("%d workers were recycled, %d looks", recycled, l.looks)
	}
	report(t, "S1", void, 1, told("recycled by maxRequests", float64(recycled), "workers"), told("calls", float64(calls.Load()), "calls"),
		told("calls of one worker, most", float64(most), "calls"), atMost("failed while recycled", float64(failed.Load()), 0, "calls"),
		atLeast("ready workers, fewest", float64(l.fewest), workers, "workers"),
		atLeast("exits told as RECYCLED", float64(s.total(`snakepit_worker_exits_total{cause="RECYCLED"}`)), 3, "workers"),
		atMost("recycled workers that count as crashed", float64(s.total("snakepit_worker_restarts_total")), 0, "workers"))
	s.expectReady(workers)
	s.expectIdle()
}

// TestRecycleByRequest asks for fresh processes in one slot, then in all: that is what becomes fresh, once; sessions that stay are told.
func TestRecycleByRequest(t *testing.T) {
	const workers, sessions = 3, 6
	spec := fmt.Sprintf("workers: %d\nrecycle: {deadline: 1s}\nqueue: {timeout: 20s}\n", workers)
	s := newStage(t, spec)
	s.expectReady(workers)
	bySlot := map[string]int64{} // process by slot
	lives := make([]*life, sessions)
	for i := range lives {
		lives[i] = &life{name: fmt.Sprint("told-", i)}
		a := s.count(lives[i])
		if a.err != nil {
			t.Fatal(a.err)
		}
		bySlot[slotOf(a)] = a.field("pid")
	}
	if len(bySlot) != workers {
		t.Fatalf("sessions are on %v", bySlot)
	}
	l := s.lookout()
	s.configure(spec + "recycleRequest: {id: first, slots: [1]}\n")
	lost, kept := s.untilLost(lives, 2), 0
	for _, old := range lives {
		if a := s.count(old); a.err == nil {
			kept++
			if slotOf(a) == "1" {
				t.Errorf("session %s is in the slot that was recycled", old.name)
			}
		}
	}
	s.expectReady(workers)
	s.configure(spec + "recycleRequest: {id: second}\n")
	eventually(t, "fresh processes for all", func() error {
		for _, pid := range bySlot {
			if syscall.Kill(int(pid), 0) == nil {
				return fmt.Errorf("worker %d lives", pid)
			}
		}
		return nil
	})
	s.expectReady(workers)
	l.end()
	after := s.workers(workers)
	s.configure(spec + "recycleRequest: {id: second}\nsessions: {idleTimeout: 1h}\n") // the same request
	time.Sleep(2 * time.Second)                                                       // in which a request that is carried out again would show
	again := 0
	if !same(after, s.workers(workers)) {
		again = 1
	}
	recycled := s.total(`snakepit_router_sessions_lost_total{cause="RECYCLED"}`)
	report(t, "S1", "", 1, atLeast("losses told as RECYCLED", float64(lost), 2, "sessions"), atLeast("sessions of other slots kept", float64(kept), sessions-2, "sessions"),
		atMost("sessions lost as RECYCLED", float64(recycled), sessions, "sessions"), atLeast("ready workers, fewest", float64(l.fewest), workers, "workers"),
		atMost("requests carried out twice", float64(again), 0, "requests"))
	s.expectIdle()
}

// slotOf says in which slot a call ran: the worker's name is POD/SLOT/NONCE.
func slotOf(a answer) string {
	if parts := strings.Split(strings.Join(a.header.Get("snakepit-worker"), ""), "/"); len(parts) == 3 {
		return parts[1]
	}
	return ""
}

// untilLost asks for sessions without touching what they count, until so many were told to be lost, and returns how many of them with cause
// RECYCLED. The cause is known until it was told.
func (s *stage) untilLost(lives []*life, want int) int {
	s.t.Helper()
	causes := map[string]string{} // as told first
	eventually(s.t, "sessions lost with their worker", func() error {
		for _, l := range lives {
			a := s.call("pid", nil, "snakepit-session", l.name, "snakepit-session-token", l.token)
			if _, known := causes[l.name]; !known && a.err != nil {
				causes[l.name] = a.info().GetMetadata()["cause"]
			}
			if a.err != nil && a.reason() != "SESSION_LOST" {
				s.t.Errorf("session %s: %v", l.name, a.err)
			}
		}
		if len(causes) < want {
			return fmt.Errorf("%d of %d", len(causes), want)
		}
		return nil
	})
	recycled := 0
	for name, cause := range causes {
		if cause == "RECYCLED" {
			recycled++
		} else {
			s.t.Errorf("session %s: cause %q", name, cause)
		}
	}
	return recycled
}

// TestCrashLoopShows kills more workers than are borne: the metrics say so, calls go on, and it passes.
func TestCrashLoopShows(t *testing.T) {
	const borne, kills = 3, 4
	s := newStage(t, fmt.Sprintf("workers: 2\ncrash: {maxRestarts: %d, window: 4s, backoff: 10ms, maxBackoff: 100ms}\n", borne))
	s.expectReady(2)
	looping := func() bool { return s.metric("snakepit_router_crash_looping") == "1" }
	early, wrong := 0, 0
	for n := 1; n <= kills; n++ {
		if n <= borne && looping() {
			early++
		}
		key := fmt.Sprint("loop-", n)
		if !s.expectAnswer(key, key, s.call("die", mark(key)), codes.Aborted, "MAYBE_EXECUTED", 1) {
			wrong++
		}
		s.expectReady(2)
	}
	eventually(t, "a crash loop in the metrics", func() error {
		if !looping() {
			return errors.New("none")
		}
		return nil
	})
	if !s.expectAnswer("a call while workers die again and again", "beside", s.call("mark", mark("beside")), codes.OK, "", 1) {
		wrong++
	}
	eventually(t, "the end of the crash loop", func() error {
		if looping() {
			return errors.New("it goes on")
		}
		return nil
	})
	exits := s.total(`snakepit_worker_exits_total{cause="KILLED"}`)
	report(t, "S1", "", 1, atMost("crash loops told too early", float64(early), 0, "times"), atMost("told wrongly", float64(wrong), 0, "calls"),
		atMost("exits counted wrongly", math.Abs(float64(exits-kills)), 0, "workers"))
	s.expectIdle()
}
