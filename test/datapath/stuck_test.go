package datapath

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// watchful finds a stuck worker within a few seconds.
const watchful = "heartbeat: {interval: 500ms, timeout: 2s, missed: 3}\n" + calm

func stuckExits(s *stage) int { return s.total(`snakepit_worker_exits_total{cause="STUCK"}`) }

// TestS12BusyIsNotDead holds the interpreter in C code for far longer than the heartbeat's timeout, stops the router for longer than it too, and leaves
// the router a tenth of its time: no worker is taken for dead. FAULTS=all: a minute in C code, and 30 s of a slow router.
func TestS12BusyIsNotDead(t *testing.T) {
	const workers = 3
	burn, slow := either(12.0, 60.0), either(5*time.Second, 30*time.Second)
	s := newStage(t, fmt.Sprintf("workers: %d\ncalls: {timeout: 120s}\n", workers)+watchful)
	s.expectReady(workers)
	pids := s.workers(workers)
	l := &life{name: "s12"}
	if a := s.count(l); a.err != nil {
		t.Fatal(a.err)
	}
	burned := make(chan answer, 1)
	go func() { burned <- s.within(90*time.Second, "burn_at_once", arguments{"seconds": number(burn)}) }()
	calls, failed := atomic.Int64{}, atomic.Int64{}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if a := s.call("pid", nil); a.err != nil {
				failed.Add(1)
				t.Errorf("a call beside: %v", a.err)
			}
			calls.Add(1)
		}
	}()
	time.Sleep(time.Second) // of a router that runs before it is stopped
	s.signalRouter(syscall.SIGSTOP)
	time.Sleep(3 * time.Second)
	s.signalRouter(syscall.SIGCONT)
	before := calls.Load()
	s.throttleRouter(slow)
	slowCalls := calls.Load() - before
	a := <-burned
	close(stop)
	<-done
	if a.err != nil {
		t.Errorf("the call in C code: %v", a.err)
	}
	lost := s.kept(l)
	s.expectReady(workers)
	deaths := s.total("snakepit_worker_restarts_total")
	if now := s.workers(workers); !same(pids, now) {
		t.Errorf("workers %v became %v", pids, now)
		deaths = max(deaths, 1)
	}
	void := ""
	if held := a.value.GetNumber(); held < burn || calls.Load() < 20 || slowCalls == 0 {
		void = fmt.Sprintf("the interpreter was held for %.0f s, %d calls beside, %d of them while the router was slow", held, calls.Load(), slowCalls)
	}
	report(t, "S12", void, 1, told("interpreter held", burn, "s"), told("router at a tenth of its time", slow.Seconds(), "s"),
		told("calls beside", float64(calls.Load()), "calls"), told("calls beside while the router is slow", float64(slowCalls), "calls"), atMost("calls beside that failed", float64(failed.Load()), 0, "calls"),
		atMost("false deaths", float64(deaths), 0, "workers"), atMost("sessions lost", float64(lost), 0, "sessions"))
	s.expectIdle()
}

func (s *stage) signalRouter(signal syscall.Signal) {
	s.t.Helper()
	if err := s.router.Process.Signal(signal); err != nil {
		s.t.Fatal(err)
	}
}

// throttleRouter lets the router run for 10 ms of each 100 ms.
func (s *stage) throttleRouter(length time.Duration) {
	s.t.Helper()
	for end := time.Now().Add(length); time.Now().Before(end); {
		s.signalRouter(syscall.SIGSTOP)
		time.Sleep(90 * time.Millisecond)
		s.signalRouter(syscall.SIGCONT)
		time.Sleep(10 * time.Millisecond)
	}
}

// TestS12StuckIsFound stops a worker for good, and lets another wait in C code with the interpreter held: both are found and replaced, and what the
// second one did is in the log.
func TestS12StuckIsFound(t *testing.T) {
	const workers = 2
	s := newStage(t, fmt.Sprintf("workers: %d\n", workers)+watchful)
	s.expectReady(workers)
	found, slowest := 0, time.Duration(0)
	stop := func(what, session string, stuck func(pid int, pairs ...string) answer) {
		pairs := []string{"snakepit-session", session, "snakepit-session-create", "true"}
		first := s.call("count", nil, pairs...)
		if first.err != nil {
			t.Fatal(first.err)
		}
		began, before := time.Now(), stuckExits(s)
		a := stuck(int(first.field("pid")), pairs...)
		eventually(t, "the end of "+what, func() error {
			if stuckExits(s) == before {
				return errors.New("no worker was ended for being stuck")
			}
			return nil
		})
		slowest = max(slowest, time.Since(began))
		if s.expectAnswer(what, session, a, codes.Aborted, "MAYBE_EXECUTED", s.marks()[session]) {
			found++
		}
		s.expectReady(workers)
		if syscall.Kill(int(first.field("pid")), 0) == nil {
			t.Errorf("%s lives", what)
		}
	}
	stop("a stopped process", "stopped", func(pid int, pairs ...string) answer {
		told := make(chan answer, 1)
		go func() { told <- s.call("mark", arguments{"key": text("stopped"), "seconds": number(60)}, pairs...) }()
		s.expectMark("stopped")
		_ = syscall.Kill(pid, syscall.SIGSTOP)
		return <-told
	})
	stop("a process that waits in C", "hung", func(_ int, pairs ...string) answer { return s.call("hang", nil, pairs...) })
	dumps := 0
	if s.logged("Current thread") && s.logged("in hang") {
		dumps = 1
	}
	report(t, "S12", "", 1, atLeast("stuck workers found and told", float64(found), 2, "workers"), atLeast("stack dumps in the log", float64(dumps), 1, "dumps"),
		told("stuck worker found, slowest", slowest.Seconds(), "s"))
	s.expectIdle()
}

// TestS12Quarantine lets one request kill two workers: it is refused for a while, others are not.
func TestS12Quarantine(t *testing.T) {
	const quarantine = 6 * time.Second
	s := newStage(t, "workers: 2\ncrash: {maxRestarts: 1000, backoff: 10ms, maxBackoff: 100ms, quarantine: "+quarantine.String()+"}\n")
	s.expectReady(2)
	wrong, kills := 0, `snakepit_worker_exits_total{cause="KILLED"}`
	for n := 1; n <= 2; n++ {
		key := fmt.Sprint("poison-", n)
		if !s.expectAnswer("death "+key, key, s.call("die", mark(key), "snakepit-request-id", "poison"), codes.Aborted, "MAYBE_EXECUTED", 1) {
			wrong++
		}
		eventually(t, "the word of that death", func() error {
			if s.total(kills) != n {
				return fmt.Errorf("%d deaths", s.total(kills))
			}
			return nil
		})
		s.expectReady(2)
	}
	last := time.Now()
	a := s.call("mark", mark("refused"), "snakepit-request-id", "poison")
	if !s.expectAnswer("the same request id", "refused", a, codes.FailedPrecondition, "NOT_STARTED", 0) || a.reason() != "REQUEST_QUARANTINED" {
		wrong++
	}
	if late := time.Since(last) > quarantine/2; late {
		t.Errorf("void: the machine was too slow for a quarantine of %v", quarantine)
	}
	if !s.expectAnswer("another request id", "other", s.call("mark", mark("other"), "snakepit-request-id", "harmless"), codes.OK, "", 1) {
		wrong++
	}
	eventually(t, "the end of the quarantine", func() error { return s.call("mark", mark("after"), "snakepit-request-id", "poison").err })
	if held := time.Since(last); held < quarantine/2 {
		wrong++
		t.Errorf("the quarantine of %v held for %v", quarantine, held)
	}
	report(t, "S12", "", 1, atMost("quarantine: told wrongly", float64(wrong), 0, "calls"), atMost("duplicates", float64(s.marks()["after"]-1), 0, "calls"))
	s.expectIdle()
}
