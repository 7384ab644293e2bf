package bridge

import (
	"crypto/subtle"
	"fmt"
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"google.golang.org/protobuf/proto"
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
	if c.role == bridgev1.Role_ROLE_DATA {
		var err error
		if c.marks, err = c.takeMarks(h); err != nil {
			s.handler.Note("a worker's marks cannot be used: each of its calls is told by a frame", err)
		}
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
		w.calls, w.nextID, w.said = map[uint32]*Call{}, 0, declared(h, c.version)
		w.slots, w.out, w.queued, w.wrote = w.said.Slots, w.out[:0], 0, 0
	}
	pair := w.data != nil && w.control != nil && w.data.hailed.Load() && w.control.hailed.Load()
	w.pulse = pulse{}
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
	if !c.stale.Load() { // else its pair broke before, and what is there now is the worker's next one
		for _, other := range []*conn{w.data, w.control} {
			if other != nil {
				other.stale.Store(true)
			}
		}
	}
	wasUp := w.up
	w.up = false
	var calls map[uint32]*Call
	wrote := w.wrote
	if c.role == bridgev1.Role_ROLE_DATA {
		calls, w.calls, w.ending, w.out = w.calls, nil, true, nil
	}
	w.mu.Unlock()
	if wasUp {
		w.server.handler.WorkerDown(w)
	}
	readToEnd := c.ended(err) && c.settleMarks(calls)
	for _, call := range calls {
		call.broken(readToEnd, wrote)
	}
	if c.role == bridgev1.Role_ROLE_DATA {
		w.mu.Lock()
		w.ending = false
		w.mu.Unlock()
	}
}

// settleMarks notes of the calls of an ended connection which of them had begun. It reports false when that cannot be known.
func (c *conn) settleMarks(calls map[uint32]*Call) bool {
	if c.marks == nil || len(calls) == 0 {
		return true
	}
	begun, err := c.marks.begun()
	for id := range begun {
		if call := calls[id]; call != nil && call.step(onMarked) == goesOn {
			call.observer.CallAccepted()
		}
	}
	return err == nil
}

// broken ends a call whose connection is no more. readToEnd: the peer ended it, and all that it had written was read. wrote counts the bytes that
// were handed to a write on that connection.
func (c *Call) broken(readToEnd bool, wrote uint64) {
	e := onOtherEnd
	switch {
	case c.from >= wrote:
		e = onNeverWrote
	case readToEnd:
		e = onReadToEnd
	}
	switch c.step(e) {
	case proves:
		c.ended(&End{Kind: NotStarted})
	case doubts:
		c.ended(&End{Kind: MaybeExecuted})
	}
}

// serveSupervisor takes the supervisor's connection and reads it until it breaks.
func (s *Server) serveSupervisor(c *conn, h *bridgev1.Hello) {
	free := s.hold(func() (bool, time.Duration) {
		if s.supervisor != nil {
			return false, duplicateWait
		}
		s.supervisor = c
		return true, 0
	})
	if !free {
		s.refuse(c, h, bridgev1.GoodbyeReason_GOODBYE_REASON_DUPLICATE, "another supervisor is connected")
		return
	}
	err := s.welcome(c)
	if err == nil {
		s.adopt(h)
		err = s.readSupervisor(c, h)
		s.handler.SupervisorDown()
	}
	if violation(err) {
		s.handler.Note("the supervisor broke the protocol", err)
		c.goodbye(bridgev1.GoodbyeReason_GOODBYE_REASON_PROTOCOL_ERROR, err.Error())
	}
	s.mu.Lock()
	s.supervisor = nil
	s.notifyLocked()
	s.mu.Unlock()
}

// adopt follows a supervisor's Hello: what it lists exists, what it does not list is gone. Of what they hold more may follow.
func (s *Server) adopt(h *bridgev1.Hello) {
	state := h.GetSupervisor()
	if state == nil {
		state = &bridgev1.SupervisorState{}
	}
	listed := map[Incarnation]bool{}
	for _, ws := range state.GetWorkers() {
		listed[incarnationOf(ws.GetIncarnation())] = true
	}
	s.mu.Lock()
	var gone []*Worker
	for id, w := range s.workers {
		if !listed[id] {
			gone = append(gone, w)
		}
	}
	s.mu.Unlock()
	for _, w := range gone {
		s.exit(w, nil)
	}
	for _, ws := range state.GetWorkers() {
		s.register(ws.GetIncarnation(), ws.GetProof(), ws)
	}
	if a := state.GetAdapter(); a != nil {
		s.handler.Adapter(a)
	}
	s.handler.Remembered(state.GetLost())
	if !state.GetContinued() {
		s.complete(state)
	}
}

// complete ends what a Hello began. The time that it gave a drain has passed in part when other parts came between: then the drain ends a little late,
// and the supervisor's own deadline counts.
func (s *Server) complete(hello *bridgev1.SupervisorState) {
	s.handler.SupervisorUp(hello)
	if d := hello.GetDrain(); d != nil {
		s.handler.DrainRequested(time.Duration(d.GetDeadlineMs()) * time.Millisecond)
	}
}

// more follows another part of a Hello. Workers that it does not know have ended since.
func (s *Server) more(part *bridgev1.SupervisorState, h *bridgev1.Hello) {
	for _, ws := range part.GetWorkers() {
		if w := s.worker(ws.GetIncarnation()); w != nil {
			s.handler.WorkerRegistered(w, ws)
		}
	}
	s.handler.Remembered(part.GetLost())
	if !part.GetContinued() {
		s.complete(h.GetSupervisor())
	}
}

func (s *Server) register(id *bridgev1.Incarnation, proof []byte, state *bridgev1.WorkerState) {
	if id == nil || id.GetSlot() >= 256 {
		return
	}
	key := incarnationOf(id)
	s.mu.Lock()
	w := s.workers[key]
	fresh := w == nil
	if fresh {
		w = &Worker{ID: key, pod: id.GetPodUid(), server: s, proof: append([]byte(nil), proof...)}
	}
	s.mu.Unlock()
	s.handler.WorkerRegistered(w, state)
	if fresh {
		s.mu.Lock()
		s.workers[key] = w
		s.notifyLocked()
		s.mu.Unlock()
	}
}

// exit forgets a worker whose end is proven, once all that it sent was read and its calls have ended. Its connections end by themselves, or after
// exitWait where something inherited a descriptor.
func (s *Server) exit(w *Worker, exit *bridgev1.WorkerExited) {
	s.mu.Lock()
	delete(s.workers, w.ID)
	s.notifyLocked()
	s.mu.Unlock()
	w.mu.Lock()
	w.exited = true
	data, control := w.data, w.control
	w.mu.Unlock()
	for _, c := range []*conn{data, control} {
		if c != nil { // a descriptor that something inherited would keep it open
			_ = c.SetReadDeadline(time.Now().Add(exitWait))
		}
	}
	s.hold(func() (bool, time.Duration) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.data == nil && w.control == nil && !w.ending, 2 * exitWait
	})
	s.handler.WorkerExited(w, exit)
}

func (s *Server) readSupervisor(c *conn, h *bridgev1.Hello) error {
	var f Frame
	whole := !h.GetSupervisor().GetContinued()
	for {
		owned, err := c.readFrame(&f)
		if err != nil {
			return err
		}
		if !allowed[c.role][f.Kind] {
			return fmt.Errorf("%w: kind 0x%02x on a SUPERVISOR connection", errRule, uint8(f.Kind))
		}
		switch f.Kind {
		case KindPing:
			f.Kind = KindPong
			_ = c.send(f.Append(nil)) // a broken link is told by its reader
		case KindControl:
			m := &bridgev1.FromSupervisor{}
			if err := proto.Unmarshal(f.Payload, m); err != nil {
				return fmt.Errorf("%w: FromSupervisor does not parse", errRule)
			}
			if owned != nil {
				s.config.Buffers.Put(owned)
			}
			if part := m.GetMore(); part == nil {
				s.fromSupervisor(m)
			} else if whole {
				return fmt.Errorf("%w: more after the last part of a Hello", errRule)
			} else {
				s.more(part, h)
				whole = !part.GetContinued()
			}
		}
	}
}

func (s *Server) fromSupervisor(m *bridgev1.FromSupervisor) {
	switch k := m.GetKind().(type) {
	case *bridgev1.FromSupervisor_Started:
		s.register(k.Started.GetIncarnation(), k.Started.GetProof(), nil)
	case *bridgev1.FromSupervisor_Exited:
		if w := s.worker(k.Exited.GetIncarnation()); w != nil {
			s.exit(w, k.Exited)
		}
	case *bridgev1.FromSupervisor_Adapter:
		s.handler.Adapter(k.Adapter)
	case *bridgev1.FromSupervisor_Drain:
		s.handler.DrainRequested(time.Duration(k.Drain.GetDeadlineMs()) * time.Millisecond)
	case *bridgev1.FromSupervisor_Session:
		if w := s.worker(k.Session.GetIncarnation()); w != nil {
			s.handler.SessionChanged(w, k.Session)
		}
	case *bridgev1.FromSupervisor_Usage:
		now := time.Now()
		for _, u := range k.Usage.GetWorkers() {
			if w := s.worker(u.GetIncarnation()); w != nil {
				w.used(u, now)
				s.handler.Used(w, u.GetPrivateBytes())
			}
		}
	}
}

func (s *Server) worker(id *bridgev1.Incarnation) *Worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.workers[incarnationOf(id)]
}

// ToSupervisor tells the supervisor something. It reports false when none is connected: then its next Hello asks for the whole wish.
func (s *Server) ToSupervisor(m *bridgev1.ToSupervisor) bool {
	s.mu.Lock()
	c := s.supervisor
	s.mu.Unlock()
	payload, err := proto.Marshal(m)
	if c == nil || err != nil || !c.hailed.Load() {
		return false
	}
	f := Frame{Kind: KindControl, Payload: payload}
	return c.send(f.Append(nil)) == nil
}

// Kill asks for the end of one incarnation; with stacks, its stacks are written to the log first.
func (s *Server) Kill(w *Worker, cause string, stacks bool) bool {
	return s.ToSupervisor(&bridgev1.ToSupervisor{Kind: &bridgev1.ToSupervisor_Kill{Kill: &bridgev1.Kill{
		Incarnation: &bridgev1.Incarnation{PodUid: w.pod, Slot: uint32(w.ID.Slot), Nonce: w.ID.Nonce}, Cause: cause, DumpStacks: stacks,
	}}})
}
