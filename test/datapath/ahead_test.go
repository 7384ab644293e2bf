package datapath

import (
	"testing"
	"time"
)

// TestNoCallWaitsBehindALongOne runs short calls beside calls that hold the interpreter's lock: what was sent to their worker could not be
// had back, so nothing may be sent there, while another worker serves. The pool is one of short calls by far.
func TestNoCallWaitsBehindALongOne(t *testing.T) {
	t.Parallel()
	const callers, burns, burn, limit = 8, 2, 4 * time.Second, 3 * time.Second
	s := newStage(t, "workers: 2\n")
	s.expectReady(2)
	short := func() answer { return s.within(limit, "echo", arguments{"payload": data([]byte("x"))}) }
	closedLoop(callers, time.Second, short)
	stop, done := make(chan struct{}), make(chan answer, burns)
	go func() {
		defer close(done)
		for range burns {
			done <- s.call("burn_at_once", arguments{"seconds": number(burn.Seconds())})
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond): // the pool is one of short calls again
			}
		}
	}()
	all := closedLoop(callers, burns*(burn+200*time.Millisecond), short)
	close(stop)
	for a := range done {
		if a.err != nil {
			t.Errorf("the long call: %v", a.err)
		}
	}
	void := ""
	if len(all) < 1000 {
		void = "too few calls to tell"
	}
	for _, x := range all {
		if x.err != nil {
			t.Errorf("after %s: %v", x.took, x.err)
		}
	}
	report(t, "S4", void, burns, atMost("calls that waited behind one that held the interpreter's lock", float64(len(all)-good(all)), 0, "calls"))
	s.expectIdle()
}
