package upstream

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/bridge/fakeworker"
	"github.com/snakepit-k8s/snakepit/router/front"
)

func TestAnIdleStreamIsEnded(t *testing.T) {
	settings := testSettings(1)
	settings.StreamIdleTimeout = 50 * time.Millisecond
	s := newScene(t, settings)
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	w := s.worker(sup, 0, 1)
	got := s.call(&front.Call{Way: front.ExecuteStream, Stream: true})
	id := w.Data.Expect(bridge.KindCall).ID
	w.Accept(id)
	w.Data.Send(&bridge.Frame{Kind: bridge.KindMessage, ID: id, Flags: 3, Payload: []byte("one")})
	cancelled := make(chan bridge.Frame, 1)
	go func() { cancelled <- w.Control.Expect(bridge.KindCancel) }()
	s.eventually(func() bool { s.Tick(); return len(cancelled) > 0 })
	w.Data.Send(&bridge.Frame{Kind: bridge.KindFinish, ID: id, Code: 1})
	if f := (<-got).failure(t); f.Reason != front.ReasonCallTimeout || !bytes.Contains([]byte(f.Message), []byte("streamIdleTimeout")) {
		t.Fatalf("%+v", f)
	}
}

func TestAStuckWorkerIsKilledWithItsStacks(t *testing.T) {
	s := newScene(t, testSettings(1))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	w := s.worker(sup, 0, 1)
	var l *link
	s.mu.Lock()
	for l = range s.links {
	}
	s.mu.Unlock()
	s.WorkerStuck(l.worker)
	s.WorkerStuck(l.worker) // comes again each round
	kill := sup.Hear().GetKill()
	for kill == nil {
		kill = sup.Hear().GetKill()
	}
	if kill.GetCause() != "STUCK" || !kill.GetDumpStacks() {
		t.Fatalf("%v", kill)
	}
	w.Close()
	sup.Exited(w.ID, "KILLED")
	s.eventually(func() bool { return len(s.Facts().Slots) == 1 && s.Facts().Slots[0].State == "Failed" })
}

func TestTheQueueTimeIsBounded(t *testing.T) {
	settings := testSettings(1)
	settings.Dispatch.QueueTimeout = 30 * time.Millisecond
	s := newScene(t, settings)
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	w := s.worker(sup, 0, 1)
	s.call(&front.Call{})
	w.Accept(w.Data.Expect(bridge.KindCall).ID)
	got := s.call(&front.Call{})
	s.eventually(func() bool { s.Tick(); return len(got) > 0 })
	if f := (<-got).failure(t); f.Reason != front.ReasonQueueTimeout || f.Wait == 0 {
		t.Fatalf("%+v", f)
	}
	w.Answer(1, nil)
	s.eventually(func() bool { return s.Facts().Running == 0 })
}

// A call of a connection that does not read its answers is refused when its turn comes; its slot serves others at once.
func TestACallWhoseCallerDoesNotReadIsRefused(t *testing.T) {
	s := newScene(t, testSettings(1))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	w := s.saying(sup, 0, 1, servicer())
	all := front.NewAnswers(400 << 10)
	lazy, other := all.Connection(), all.Connection()
	call := func(unread *front.Unread, size int) front.Reply {
		t.Helper()
		ask := method("/demo.Echo/Unary")
		ask.Unread = unread
		x, err := s.Admit(ask)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Release()
		f := w.Data.Expect(bridge.KindCall)
		w.Accept(f.ID)
		w.Answer(f.ID, make([]byte, size))
		r, err := x.Recv(s.ctx)
		if !errors.Is(err, io.EOF) || r.Message.Len() != size {
			t.Fatalf("%d bytes, %v", r.Message.Len(), err)
		}
		return r
	}
	small := call(lazy, countedBytes)
	if lazy.Full() != nil {
		t.Error("small answers count")
	}
	large := call(lazy, 200<<10)
	x, err := s.Admit(&front.Call{Target: "/demo.Echo/Unary", Way: front.Direct, Ready: true, Unread: lazy, RequestID: "r"})
	if err != nil {
		t.Fatal(err)
	}
	var refused *front.Failure
	if _, err := x.Recv(s.ctx); !errors.As(err, &refused) || refused.Reason != front.ReasonQueueFull || refused.Execution == front.MaybeExecuted {
		t.Fatalf("%v", err)
	}
	x.Release()
	served := call(other, 10)
	large.Message.Free()
	again := call(lazy, 10)
	for _, r := range []front.Reply{small, served, again} {
		r.Message.Free()
	}
}
