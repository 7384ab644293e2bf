package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/bridge/fakeworker"
	"github.com/snakepit-k8s/snakepit/router/front"
)

// saying connects a worker whose Hello says so.
func (s *scene) saying(sup *fakeworker.Supervisor, slot uint32, nonce uint64, hello *bridgev1.Hello) *fakeworker.Worker {
	s.t.Helper()
	w := fakeworker.DialWorkerSaying(s.t, s.socket, sup.Started(slot, nonce), hello)
	s.eventually(func() bool {
		for _, f := range s.Facts().Slots {
			if f.Nonce == nonce && f.State == "Ready" {
				return true
			}
		}
		return false
	})
	return w
}

func servicer() *bridgev1.Hello {
	return &bridgev1.Hello{
		Tools: []*bridgev1.Tool{{Name: "echo", Idempotent: true}, {Name: "other"}},
		Methods: []*bridgev1.Method{{Path: "/demo.Echo/Unary"}, {Path: "/demo.Echo/Chat", ClientStreaming: true, ServerStreaming: true},
			{Path: "/demo.Echo/Again", Idempotent: true}},
	}
}

func method(path string) *front.Call {
	return &front.Call{Target: path, Way: front.Direct, Ready: true, Request: mem.BufferSlice{mem.SliceBuffer("request")}, RequestID: "r"}
}

func TestAMethodAnswersAsItsServicerDid(t *testing.T) {
	s := newScene(t, testSettings(1))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	w := s.saying(sup, 0, 1, servicer())
	ask := method("/demo.Echo/Unary")
	ask.Peer, ask.CallerID = "ipv4:10.0.0.7:5", true
	ask.Metadata = []front.Metadatum{{Key: "a", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b-bin", Value: "\x00\xff"}}
	got := s.run(ask)
	f := w.Data.Expect(bridge.KindCall)
	if f.Tool != 2 { // after the tools
		t.Fatalf("number %d", f.Tool)
	}
	var info bridgev1.CallInfo
	if err := proto.Unmarshal(f.Ext, &info); err != nil {
		t.Fatal(err)
	}
	if info.GetPeer() != ask.Peer || !info.GetCallerRequestId() || info.GetRequestId() != "r" || fmt.Sprint(entries(info.GetMetadata())) != `[a="1" a="2" b-bin="\x00\xff"]` {
		t.Fatalf("%v", &info)
	}
	w.Accept(f.ID)
	w.Data.SendExt(&bridge.Frame{Kind: bridge.KindFinish, ID: f.ID, Flags: 3, Payload: []byte("answer")}, &bridgev1.FinishInfo{
		Headers: []*bridgev1.Metadatum{{Key: "h", Value: []byte("1")}}, Trailers: []*bridgev1.Metadatum{{Key: "t", Value: []byte("2")}, {Key: "t", Value: []byte("3")}}})
	r := <-got
	if r.err != nil || string(r.data) != "answer" || fmt.Sprint(r.headers["h"], r.trailers["t"]) != "[1] [2 3]" {
		t.Fatalf("%+v", r)
	}
	got = s.run(method("/demo.Echo/Unary"))
	id := w.Data.Expect(bridge.KindCall).ID
	w.Accept(id)
	w.Data.SendExt(&bridge.Frame{Kind: bridge.KindFinish, ID: id, Code: 9}, &bridgev1.FinishInfo{Message: "не сейчас",
		Trailers: []*bridgev1.Metadatum{{Key: "grpc-status-details-bin", Value: []byte{8, 9}}}})
	if f := (<-got).failure(t); !f.Plain || f.Code != codes.FailedPrecondition || f.Message != "не сейчас" || f.Trailers.Get("grpc-status-details-bin")[0] != "\x08\x09" {
		t.Fatalf("%+v", f)
	}
	got = s.run(method("/demo.Echo/Unary"))
	id = w.Data.Expect(bridge.KindCall).ID
	w.Accept(id)
	w.Data.SendExt(&bridge.Frame{Kind: bridge.KindFinish, ID: id, Code: 10}, &bridgev1.FinishInfo{Reason: "ALREADY_EXECUTED"})
	if f := (<-got).failure(t); f.Plain || f.Reason != front.ReasonAlreadyExecuted {
		t.Fatalf("%+v", f)
	}
}

func entries(all []*bridgev1.Metadatum) (text []string) {
	for _, m := range all {
		text = append(text, fmt.Sprintf("%s=%q", m.GetKey(), m.GetValue()))
	}
	return text
}

func TestMessagesBothWays(t *testing.T) {
	s := newScene(t, testSettings(1))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	w := s.saying(sup, 0, 1, servicer())
	x, err := s.Admit(&front.Call{Target: "/demo.Echo/Chat", Way: front.Direct, Ready: true, ClientStream: true, Stream: true})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Release()
	id := w.Data.Expect(bridge.KindCall).ID
	w.Accept(id)
	for i := range 3 {
		text := fmt.Sprint("message ", i)
		if err := x.Send(s.ctx, mem.BufferSlice{mem.SliceBuffer(text)}); err != nil {
			t.Fatal(err)
		}
		if f := w.Data.Expect(bridge.KindMessage); string(f.Payload) != text {
			t.Fatalf("%+v", f)
		}
		w.Data.Send(&bridge.Frame{Kind: bridge.KindMessage, ID: id, Flags: 3, Payload: []byte(text)})
		reply, err := x.Recv(s.ctx)
		if err != nil || string(reply.Message.Materialize()) != text {
			t.Fatalf("%+v, %v", reply, err)
		}
	}
	if err := x.CloseSend(s.ctx); err != nil {
		t.Fatal(err)
	}
	if f := w.Data.Expect(bridge.KindMessage); f.Flags != bridge.FlagEndStream {
		t.Fatalf("%+v", f)
	}
	w.Data.Send(&bridge.Frame{Kind: bridge.KindFinish, ID: id})
	if _, err := x.Recv(s.ctx); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := x.Send(s.ctx, nil); !errors.Is(err, io.EOF) {
		t.Fatalf("after the end: %v", err)
	}
}

func TestALargeRequestIsRepeatedWhole(t *testing.T) {
	settings := testSettings(2)
	settings.MaxMessage = 8 << 20
	s := newScene(t, settings)
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	first := s.worker(sup, 0, 1)
	second := s.worker(sup, 1, 2)
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	got := make(chan result, 1)
	go func() {
		x, err := s.Admit(&front.Call{RequestID: "r"})
		if err == nil {
			defer x.Release()
			err = x.Wait(s.ctx)
		}
		if err != nil {
			got <- result{err: err}
			return
		}
		ask := x.(*call).ask
		ask.Target, ask.Request = "echo", mem.BufferSlice{mem.SliceBuffer(body[:100]), mem.SliceBuffer(body[100:])}
		if err := x.Start(s.ctx); err != nil {
			got <- result{err: err}
			return
		}
		reply, err := x.Recv(s.ctx)
		if err != nil || !reply.Consumed {
			got <- result{err: errors.New("the request is kept though nobody would repeat it")}
			return
		}
		reply, err = x.Recv(s.ctx)
		got <- result{data: reply.Message.Materialize(), err: err}
	}()
	first.Data.Expect(bridge.KindCall)
	first.Close()
	f := second.Data.Expect(bridge.KindCall)
	second.Accept(f.ID)
	whole := f.Payload
	for f.Flags&bridge.FlagEndMessage == 0 {
		f = second.Data.Expect(bridge.KindMessage)
		whole = append(whole, f.Payload...)
	}
	if !bytes.Equal(whole, body) {
		t.Fatalf("%d bytes came", len(whole))
	}
	second.Answer(f.ID, []byte("done"))
	if r := <-got; !errors.Is(r.err, io.EOF) || string(r.data) != "done" {
		t.Fatalf("%q, %v", r.data, r.err)
	}
}

func TestWhatMayHaveRunIsRepeatedOnlyByBothWords(t *testing.T) {
	for name, c := range map[string]struct {
		target string
		caller bool
		again  bool
	}{
		"both":             {"echo", true, true},
		"the caller alone": {"other", true, false},
		"the tool alone":   {"echo", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, testSettings(2))
			sup := fakeworker.DialSupervisor(t, s.socket, pod)
			first := s.saying(sup, 0, 1, servicer())
			second := s.saying(sup, 1, 2, servicer())
			got := s.run(&front.Call{Target: c.target, Ready: true, Request: mem.BufferSlice{mem.SliceBuffer("x")}, Idempotent: c.caller})
			first.Accept(first.Data.Expect(bridge.KindCall).ID)
			first.Close()
			if c.again {
				serve(second, "done")
				if r := <-got; r.err != nil || string(r.data) != "done" {
					t.Fatalf("%+v", r)
				}
				return
			}
			if f := (<-got).failure(t); f.Reason != front.ReasonWorkerDied || f.Execution != front.MaybeExecuted {
				t.Fatalf("%+v", f)
			}
		})
	}
}

func TestARequestThatKilledTwoWorkersIsRefused(t *testing.T) {
	s := newScene(t, testSettings(3))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	for i := range uint32(2) {
		w := s.worker(sup, i, uint64(i+1))
		got := s.call(&front.Call{})
		w.Accept(w.Data.Expect(bridge.KindCall).ID)
		w.Close()
		if f := (<-got).failure(t); f.Reason != front.ReasonWorkerDied {
			t.Fatalf("%+v", f)
		}
		sup.Exited(w.ID, "KILLED")
		s.eventually(func() bool { return s.suspects.Load() == 1 && s.blocked() == (i == 1) })
	}
	if f := (<-s.call(&front.Call{})).failure(t); f.Reason != front.ReasonRequestQuarantined || f.Info["until"] == "" {
		t.Fatalf("%+v", f)
	}
	w := s.worker(sup, 2, 3)
	other := s.run(&front.Call{Target: "echo", Ready: true, Request: mem.BufferSlice{mem.SliceBuffer("another")}})
	serve(w, "fine")
	if r := <-other; r.err != nil {
		t.Fatalf("another request: %v", r.err)
	}
	s.mu.Lock()
	s.quarantine.Expire(s.now().Add(DefaultQuarantine + time.Second))
	left := s.quarantine.Len()
	s.mu.Unlock()
	if left != 0 {
		t.Fatalf("%d requests are remembered for ever", left)
	}
}

// What everybody asks for is held by whatever worker dies of something else: a worker that finishes it in between takes the suspicion away.
func TestARequestThatAWorkerSurvivedIsNotRefused(t *testing.T) {
	s := newScene(t, testSettings(3))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	for i := range uint32(3) {
		w := s.worker(sup, i, uint64(i+1))
		got := s.call(&front.Call{})
		serve(w, "fine")
		if r := <-got; r.err != nil {
			t.Fatalf("call %d: %v", i, r.err)
		}
		if n := s.suspects.Load(); n != 0 {
			t.Fatalf("%d requests are suspected though a worker finished the only one", n)
		}
		got = s.call(&front.Call{})
		w.Accept(w.Data.Expect(bridge.KindCall).ID)
		w.Close()
		if f := (<-got).failure(t); f.Reason != front.ReasonWorkerDied {
			t.Fatalf("%+v", f)
		}
		sup.Exited(w.ID, "KILLED")
		s.eventually(func() bool { return s.suspects.Load() == 1 && !s.blocked() })
	}
}

// blocked says that the request of call is quarantined.
func (s *scene) blocked() bool {
	c := &call{ask: &front.Call{Target: "echo"}, pieces: [][]byte{[]byte("request")}, size: len("request")}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, blocked := s.quarantine.Blocked(c.requestKey(), s.now())
	return blocked
}

// warm makes dispatch know that calls are short.
func (s *scene) warm(w *fakeworker.Worker) {
	s.t.Helper()
	for range 40 {
		got := s.call(&front.Call{})
		serve(w, "x")
		if r := <-got; r.err != nil {
			s.t.Fatal(r.err)
		}
	}
}

func TestACallIsSentAheadAndRecalled(t *testing.T) {
	settings := testSettings(2)
	settings.Dispatch.PrefetchBelow = time.Minute // every call is short
	s := newScene(t, settings)
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	w := s.worker(sup, 0, 1)
	s.warm(w)
	first := s.call(&front.Call{})
	runs := w.Data.Expect(bridge.KindCall).ID
	w.Accept(runs)
	second := s.call(&front.Call{})
	ahead := w.Data.Expect(bridge.KindCall).ID // though the only slot is taken
	other := s.worker(sup, 1, 2)
	go func() { // what runs takes so long that the other worker is the better place
		s.eventually(func() bool { s.Tick(); return s.recalled() })
	}()
	if f := w.Control.Expect(bridge.KindRecall); f.ID != ahead {
		t.Fatalf("%+v", f)
	}
	w.Control.Send(&bridge.Frame{Kind: bridge.KindRecalled, ID: ahead})
	serve(other, "elsewhere")
	if r := <-second; r.err != nil || string(r.data) != "elsewhere" {
		t.Fatalf("%+v", r)
	}
	w.Answer(runs, []byte("done"))
	if r := <-first; r.err != nil {
		t.Fatal(r.err)
	}
	if f := s.Facts(); f.Running != 0 || f.Queued != 0 {
		t.Fatalf("%+v", f)
	}
}

// recalled says that no call is ahead of its slot any more.
func (s *scene) recalled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := s.running.head; c != nil; c = c.next {
		if c.d.Prefetched {
			return false
		}
	}
	return true
}

func TestACallOfACallerWhoLeftIsCancelled(t *testing.T) {
	s := newScene(t, testSettings(1))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	w := s.worker(sup, 0, 1)
	ctx, cancel := context.WithCancel(s.ctx)
	x, err := s.Admit(&front.Call{Target: "echo", Ready: true})
	if err != nil {
		t.Fatal(err)
	}
	waits, err := s.Admit(&front.Call{Target: "echo", Ready: true})
	if err != nil {
		t.Fatal(err)
	}
	id := w.Data.Expect(bridge.KindCall).ID
	w.Accept(id)
	cancel()
	for _, x := range []front.Exchange{waits, x} {
		if _, err := x.Recv(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		x.Release()
	}
	if f := w.Control.Expect(bridge.KindCancel); f.ID != id || f.Cause != bridge.CancelByCaller {
		t.Fatalf("%+v", f)
	}
	if f := s.Facts(); f.Running != 1 || f.Queued != 0 {
		t.Fatalf("the slot is free before the handler returned: %+v", f)
	}
	w.Data.Send(&bridge.Frame{Kind: bridge.KindFinish, ID: id, Code: 1})
	s.eventually(func() bool { return s.Facts().Running == 0 })
}
