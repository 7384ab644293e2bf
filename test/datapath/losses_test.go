package datapath

import (
	"fmt"
	"syscall"
	"testing"
)

// TestS4LossesOutliveTheRouter loses sessions and then the router, in both orders: the next router tells each caller of the loss, whether it shows the
// token or only the name, and one that begins again is told so.
func TestS4LossesOutliveTheRouter(t *testing.T) {
	const sessions = 4
	s := newStage(t, "workers: 2\nqueue: {timeout: 20s}\n")
	s.expectReady(2)
	rounds, silent, wrong := 0, 0, 0
	for round, workerFirst := range []bool{true, false} {
		rounds++
		lives := make([]*life, sessions)
		pids := map[int]bool{}
		for i := range lives {
			lives[i] = &life{name: fmt.Sprintf("lost-%d-%d", round, i)}
			a := s.count(lives[i])
			if a.err != nil {
				t.Fatal(a.err)
			}
			pids[int(a.field("pid"))] = true
		}
		kill := func() {
			for pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if workerFirst {
			kill()
			for _, l := range lives {
				eventually(t, "the first router tells the loss", func() error { return s.tellsLoss(l.name) })
			}
			s.killRouter()
		} else {
			_ = s.router.Process.Kill()
			_ = s.router.Wait()
			kill()
			eventually(t, "the workers' end", func() error { return s.ended(pids) })
			s.startRouter()
		}
		s.expectReady(2)
		for _, l := range lives {
			for range 2 { // telling is not acknowledging
				if err := s.tellsLoss(l.name); err != nil {
					silent++
					t.Errorf("by name: %v", err)
				}
			}
		}
		for i, l := range lives {
			if i%2 == 0 {
				if err := s.tellsLoss(l.name, "snakepit-session-token", l.token); err != nil {
					silent++
					t.Errorf("by token: %v", err)
				}
				continue
			}
			a := s.call("count", nil, "snakepit-session", l.name, "snakepit-session-create", "true")
			if state := a.header.Get("snakepit-session-state"); a.err != nil || len(state) != 1 || state[0] != "rebound" || a.field("count") != 1 {
				wrong++
				t.Errorf("%s begins again: %v %v, state %q", l.name, a.value, a.err, state)
			}
		}
	}
	report(t, "S4", "", rounds, atMost("losses that the next router did not tell", float64(silent), 0, "calls"), atMost("lives that began again in silence", float64(wrong), 0, "calls"))
	s.expectIdle()
}

// tellsLoss says what was answered in place of the loss of a session.
func (s *stage) tellsLoss(name string, pairs ...string) error {
	a := s.call("count", nil, append(pairs, "snakepit-session", name)...)
	if a.reason() != "SESSION_LOST" || a.info().GetMetadata()["cause"] != "KILLED" {
		return fmt.Errorf("%s: %v %w", name, a.value, a.err)
	}
	return nil
}

// ended says which of these processes the supervisor still knows.
func (s *stage) ended(pids map[int]bool) error {
	for pid := range pids {
		if err := syscall.Kill(pid, 0); err == nil {
			return fmt.Errorf("process %d is there", pid)
		}
	}
	return nil
}

// TestS4ManySessions kills the router while its workers hold more sessions than one frame of the bridge can list: each is kept.
func TestS4ManySessions(t *testing.T) {
	const workers, sessions, callers = 2, 4000, 8
	s := newStage(t, fmt.Sprintf("workers: %d\nsessions: {maxPerWorker: 4000, creation: Implicit}\nqueue: {timeout: 20s}\n", workers))
	s.expectReady(workers)
	name := func(i int) string { return fmt.Sprintf("%0120d", i) }
	tokens := make([]string, sessions)
	each := func(what string, call func(i int) error) (failed int) {
		errs := make(chan error, sessions)
		for c := range callers {
			go func() {
				for i := c; i < sessions; i += callers {
					errs <- call(i)
				}
			}()
		}
		for range sessions {
			if err := <-errs; err != nil {
				failed++
				if failed <= 3 {
					t.Errorf("%s: %v", what, err)
				}
			}
		}
		return failed
	}
	unborn := each("session", func(i int) error {
		a := s.call("count", nil, "snakepit-session", name(i))
		tokens[i] = a.token()
		return a.err
	})
	s.killRouter()
	s.expectReady(workers)
	lost := each("after the kill", func(i int) error {
		a := s.call("count", nil, "snakepit-session", name(i), "snakepit-session-token", tokens[i])
		if a.err == nil && a.field("count") != 2 {
			return fmt.Errorf("count %d", a.field("count"))
		}
		return a.err
	})
	void := ""
	if unborn > 0 {
		void = fmt.Sprintf("%d sessions did not begin", unborn)
	}
	report(t, "S4", void, 1, told("sessions in two workers, names of 120 bytes", sessions, "sessions"), atMost("of them lost with the router", float64(lost), 0, "sessions"))
}
