package bridge

import (
	"fmt"
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"google.golang.org/protobuf/proto"
)

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
		err = s.readSupervisor(c)
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

// adopt follows a supervisor's Hello: what it lists exists, what it does not list is gone.
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
	s.handler.SupervisorUp(state)
	if d := state.GetDrain(); d != nil {
		s.handler.DrainRequested(time.Duration(d.GetDeadlineMs()) * time.Millisecond)
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

func (s *Server) readSupervisor(c *conn) error {
	var f Frame
	for {
		if err := c.readFrame(&f); err != nil {
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
			s.fromSupervisor(m)
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

// Kill asks for the end of one incarnation.
func (s *Server) Kill(w *Worker, cause string) bool {
	return s.ToSupervisor(&bridgev1.ToSupervisor{Kind: &bridgev1.ToSupervisor_Kill{Kill: &bridgev1.Kill{
		Incarnation: &bridgev1.Incarnation{PodUid: w.pod, Slot: uint32(w.ID.Slot), Nonce: w.ID.Nonce}, Cause: cause,
	}}})
}
