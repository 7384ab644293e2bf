package bridge

import (
	"crypto/subtle"

	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
)

func incarnationOf(p *bridgev1.Incarnation) Incarnation {
	return Incarnation{Slot: uint16(p.GetSlot()), Nonce: p.GetNonce()}
}

// serveWorker takes a worker's connection once its incarnation is known and its place is free, and reads it until it breaks.
func (s *Server) serveWorker(c *conn, h *bridgev1.Hello) {
	w, why := s.admitWorker(c, h)
	if w == nil {
		reason := bridgev1.GoodbyeReason_GOODBYE_REASON_IDENTITY
		if why == "" {
			reason, why = bridgev1.GoodbyeReason_GOODBYE_REASON_DUPLICATE, "another connection of this role and incarnation is alive"
		}
		s.refuse(c, h, reason, why)
		return
	}
	err := s.welcome(c)
	if err == nil {
		w.attach(c, h)
		if c.role == bridgev1.Role_ROLE_DATA {
			err = w.readData(c)
		} else {
			err = w.readControl(c)
		}
	}
	if violation(err) {
		s.handler.Note("a worker broke the protocol", err)
		c.goodbye(bridgev1.GoodbyeReason_GOODBYE_REASON_PROTOCOL_ERROR, err.Error())
	}
	w.detach(c, err)
	s.mu.Lock()
	s.notifyLocked()
	s.mu.Unlock()
}

// admitWorker finds the registered worker and reserves the place of the connection.
func (s *Server) admitWorker(c *conn, h *bridgev1.Hello) (w *Worker, why string) {
	s.hold(func() (bool, time.Duration) {
		w, why = s.workers[incarnationOf(h.GetIncarnation())], ""
		if w == nil {
			why = "no supervisor registered this incarnation"
			return false, identityTimeout
		}
		if len(w.proof) == 0 || subtle.ConstantTimeCompare(w.proof, h.GetProof()) != 1 {
			w, why = nil, "wrong proof for this incarnation"
			return false, 0
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		place := w.place(c.role)
		if old := *place; old != nil {
			wait := duplicateWait
			if old.stale.Load() { // its pair broke: the end of this one is on its way
				wait = identityTimeout
			}
			w = nil
			return false, wait
		}
		*place = c
		return true, 0
	})
	return w, why
}

func (w *Worker) place(role bridgev1.Role) **conn {
	if role == bridgev1.Role_ROLE_DATA {
		return &w.data
	}
	return &w.control
}

// attach makes a welcome connection count.
func (w *Worker) attach(c *conn, h *bridgev1.Hello) {
	w.mu.Lock()
	if c.role == bridgev1.Role_ROLE_DATA {
		w.calls, w.nextID, w.tools, w.pid = map[uint32]*Call{}, 0, h.GetTools(), h.GetPid()
	}
	pair := w.data != nil && w.control != nil && w.data.hailed.Load() && w.control.hailed.Load()
	up := pair && !w.up && !w.exited && !w.data.stale.Load() && !w.control.stale.Load()
	if up {
		w.up = true
	}
	w.mu.Unlock()
	if up {
		w.server.handler.WorkerUp(w)
		w.Flush()
	}
}

// detach takes a broken connection out. The calls of a DATA connection end here.
func (w *Worker) detach(c *conn, err error) {
	w.mu.Lock()
	place := w.place(c.role)
	if *place == c {
		*place = nil
	}
	for _, other := range []*conn{w.data, w.control} {
		if other != nil {
			other.stale.Store(true)
		}
	}
	wasUp := w.up
	w.up = false
	var calls map[uint32]*Call
	if c.role == bridgev1.Role_ROLE_DATA {
		calls, w.calls, w.ending = w.calls, nil, true
	}
	w.mu.Unlock()
	if wasUp {
		w.server.handler.WorkerDown(w)
	}
	for _, call := range calls {
		call.broken(c.ended(err))
	}
	if c.role == bridgev1.Role_ROLE_DATA {
		w.mu.Lock()
		w.ending = false
		w.mu.Unlock()
	}
}

// broken ends a call whose connection is no more. readToEnd: the peer ended it, and all that it had written was read.
func (c *Call) broken(readToEnd bool) {
	c.mu.Lock()
	kind := MaybeExecuted
	if c.state == callWritten && (readToEnd || !c.written) {
		kind = NotStarted
	}
	c.state = callEnded
	c.mu.Unlock()
	end := End{Kind: kind}
	c.observer.CallEnded(end)
	c.finish(end)
}
