package bridge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/bridge/fakeworker"
)

// upSaying brings a supervisor and a worker whose Hello says so.
func (h *house) upSaying(hello *bridgev1.Hello) (*fakeworker.Supervisor, *fakeworker.Worker, *bridge.Worker) {
	h.t.Helper()
	s := fakeworker.DialSupervisor(h.t, h.socket, pod)
	h.expect("supervisor up")
	w := fakeworker.DialWorkerSaying(h.t, h.socket, s.Started(0, 1), hello)
	h.expect("up")
	return s, w, h.worker(1)
}

// startStream queues a call whose request comes by Send.
func startStream(t *testing.T, w *bridge.Worker) (*bridge.Call, *watcher) {
	t.Helper()
	seen := newWatcher()
	c := newCall(seen)
	c.Expect()
	if err := w.Queue(c, &bridge.Request{Stream: true, MaxMessage: 4 << 20}); err != nil {
		t.Fatal(err)
	}
	w.Flush()
	return c, seen
}

func TestVersionsAreNegotiated(t *testing.T) {
	for _, c := range []struct {
		versions []uint32
		want     uint32
		slots    int
		methods  int
	}{
		{[]uint32{1}, 1, 1, 0},
		{[]uint32{1, 2}, 2, 8, 1},
		{[]uint32{2, 7}, 2, 8, 1},
	} {
		t.Run(fmt.Sprint(c.versions), func(t *testing.T) {
			h := newHouse(t)
			_, w, link := h.upSaying(&bridgev1.Hello{Versions: c.versions, Slots: 8, Methods: []*bridgev1.Method{{Path: "/a.B/C"}}})
			if w.Version != c.want {
				t.Fatalf("welcome to version %d", w.Version)
			}
			if d := link.Declared(); d.Slots != c.slots || len(d.Methods) != c.methods || d.Version != int(c.want) {
				t.Fatalf("declared %+v", d)
			}
			call, _ := start(t, link, []byte("hi")) // and a call goes as ever
			id := w.Data.Expect(bridge.KindCall).ID
			w.Accept(id)
			w.Answer(id, []byte("there"))
			if m, _ := recv(t, call); string(m) != "there" {
				t.Fatalf("answer %q", m)
			}
		})
	}
	h := newHouse(t)
	refused := fakeworker.Dial(t, h.socket, &bridgev1.Hello{Role: bridgev1.Role_ROLE_CONTROL, Versions: []uint32{3}, Incarnation: &bridgev1.Incarnation{PodUid: pod}})
	if got := refused.ExpectGoodbye(); got != bridgev1.GoodbyeReason_GOODBYE_REASON_VERSION {
		t.Fatalf("goodbye %v", got)
	}
}

func TestSeveralCallsAtATime(t *testing.T) {
	h := newHouse(t)
	_, w, link := h.upSaying(&bridgev1.Hello{Slots: 3})
	var calls []*bridge.Call
	for i := range 3 {
		c, _ := start(t, link, []byte{byte(i)})
		calls = append(calls, c)
		w.Accept(w.Data.Expect(bridge.KindCall).ID)
	}
	for i := 2; i >= 0; i-- { // answered in another order, in pieces that are mixed
		w.Data.Send(&bridge.Frame{Kind: bridge.KindMessage, ID: uint32(i + 1), Flags: bridge.FlagMessage, Payload: []byte("part ")})
	}
	link.QueueClose(77, 1)
	link.Flush() // every slot is taken: the close waits
	w.Answer(2, []byte("two"))
	if f := w.Data.Expect(bridge.KindSessionClose); f.Epoch != 77 {
		t.Fatalf("close %+v", f)
	}
	w.Answer(1, []byte("one"))
	w.Answer(3, []byte("three"))
	for i, want := range []string{"part one", "part two", "part three"} {
		if m, _ := recv(t, calls[i]); string(m) != want {
			t.Errorf("call %d: %q", i, m)
		}
	}
}

func TestHeadersComeFirst(t *testing.T) {
	h := newHouse(t)
	_, w, link := h.up()
	c, seen := start(t, link, nil)
	id := w.Data.Expect(bridge.KindCall).ID
	w.Accept(id)
	w.Data.SendExt(&bridge.Frame{Kind: bridge.KindHeaders, ID: id}, &bridgev1.HeadersInfo{Metadata: []*bridgev1.Metadatum{{Key: "a", Value: []byte("1")}}})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	p, err := c.Recv(ctx)
	if err != nil || !p.HasHeaders || p.HasMessage || p.Headers[0].GetKey() != "a" {
		t.Fatalf("%+v, %v", p, err)
	}
	w.Data.SendExt(&bridge.Frame{Kind: bridge.KindHeaders, ID: id}, &bridgev1.HeadersInfo{}) // twice
	if got := w.Data.ExpectGoodbye(); got != bridgev1.GoodbyeReason_GOODBYE_REASON_PROTOCOL_ERROR {
		t.Errorf("goodbye %v", got)
	}
	if end := seen.end(t); end.Kind != bridge.MaybeExecuted {
		t.Errorf("end %+v", end)
	}
}

func TestRecall(t *testing.T) {
	h := newHouse(t)
	_, w, link := h.up()
	first, _ := start(t, link, []byte("runs"))
	second, seen := start(t, link, []byte("waits"))
	w.Accept(w.Data.Expect(bridge.KindCall).ID)
	second.Recall()
	if f := w.Control.Expect(bridge.KindRecall); f.ID != 2 {
		t.Fatalf("recall %+v", f)
	}
	w.Control.Send(&bridge.Frame{Kind: bridge.KindRecalled, ID: 2})
	if end := seen.end(t); end.Kind != bridge.Recalled {
		t.Fatalf("end %+v", end)
	}
	w.Data.Expect(bridge.KindCall) // is dropped in silence
	w.Answer(1, []byte("done"))
	if m, _ := recv(t, first); string(m) != "done" {
		t.Fatalf("%q", m)
	}
	third, seen := start(t, link, []byte("accepted meanwhile"))
	w.Accept(w.Data.Expect(bridge.KindCall).ID)
	<-seen.accepted
	third.Recall() // nothing is sent any more; a late Recalled means nothing
	w.Control.Send(&bridge.Frame{Kind: bridge.KindRecalled, ID: 3})
	w.Answer(3, []byte("ran"))
	if m, _ := recv(t, third); string(m) != "ran" {
		t.Fatalf("%q", m)
	}
}

func TestARequestOfManyMessages(t *testing.T) {
	h := newHouse(t)
	_, w, link := h.up()
	c, _ := startStream(t, link)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	f := w.Data.Expect(bridge.KindCall)
	if f.Flags != 0 || len(f.Payload) != 0 {
		t.Fatalf("call %+v", f)
	}
	sent := make(chan error, 1)
	large := bytes.Repeat([]byte("x"), 700<<10)
	go func() {
		sent <- errors.Join(c.Send(ctx, [][]byte{[]byte("o"), []byte("ne")}, 3), c.Send(ctx, nil, 0), c.Send(ctx, [][]byte{large[:9], large[9:]}, len(large)), c.CloseSend(ctx))
	}()
	w.Accept(f.ID)
	var messages [][]byte
	var part []byte
	for {
		f := w.Data.Expect(bridge.KindMessage)
		if f.Flags&bridge.FlagMessage != 0 {
			part = append(part, f.Payload...)
		}
		if f.Flags&bridge.FlagEndMessage != 0 {
			messages, part = append(messages, part), nil
		}
		if f.Flags&bridge.FlagEndStream != 0 {
			break
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if len(messages) != 3 || string(messages[0]) != "one" || len(messages[1]) != 0 || !bytes.Equal(messages[2], large) {
		t.Fatalf("%d messages", len(messages))
	}
	w.Answer(f.ID, []byte("all"))
	if m, _ := recv(t, c); string(m) != "all" {
		t.Fatalf("%q", m)
	}
	if err := c.Send(ctx, [][]byte{[]byte("late")}, 4); !errors.Is(err, bridge.ErrOver) {
		t.Fatalf("after the end: %v", err)
	}
}

// A reader that does not take its answers stops the producer of that call only, at its credit.
func TestASlowReaderStopsItsProducerOnly(t *testing.T) {
	h := newHouse(t)
	_, w, link := h.upSaying(&bridgev1.Hello{Slots: 2})
	slow, _ := start(t, link, []byte("slow"))
	quick, _ := start(t, link, []byte("quick"))
	for range 2 {
		w.Accept(w.Data.Expect(bridge.KindCall).ID)
	}
	for range 4 { // all the credit of the first call
		w.Data.Send(&bridge.Frame{Kind: bridge.KindMessage, ID: 1, Flags: bridge.FlagMessage | bridge.FlagEndMessage, Payload: make([]byte, bridge.MaxPayload)})
	}
	for i := range 40 { // many times the credit of the second one, which is read
		w.Data.Send(&bridge.Frame{Kind: bridge.KindMessage, ID: 2, Flags: bridge.FlagMessage | bridge.FlagEndMessage, Payload: make([]byte, bridge.MaxPayload)})
		if m, _ := recv(t, quick); len(m) != bridge.MaxPayload {
			t.Fatalf("answer %d has %d bytes", i, len(m))
		}
		if f := w.Control.Expect(bridge.KindWindow); f.ID != 2 {
			t.Fatalf("credit for call %d, whose answers nobody took", f.ID)
		}
	}
	if m, _ := recv(t, slow); len(m) != bridge.MaxPayload {
		t.Fatal("the slow reader's first answer")
	}
	if f := w.Control.Expect(bridge.KindWindow); f.ID != 1 || f.Bytes != bridge.MaxPayload {
		t.Fatalf("%+v", f)
	}
}

// A worker that does not read never makes a caller of Flush wait, and gets everything in order once it reads.
func TestFlushNeverWaits(t *testing.T) {
	h := newHouse(t)
	_, w, link := h.upSaying(&bridgev1.Hello{Slots: 256})
	const n = 60 // 1.9 MB, far more than a socket holds
	for i := range n {
		payload := bytes.Repeat([]byte{byte(i)}, bridge.MaxQueued)
		if err := link.Queue(newCall(newWatcher()), requestOf(payload)); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { link.Flush(); close(done) }()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Fatal("Flush waits for the worker")
		}
	}
	for i := range n {
		f := w.Data.Expect(bridge.KindCall)
		if f.ID != uint32(i+1) || len(f.Payload) != bridge.MaxQueued || f.Payload[0] != byte(i) || f.Payload[bridge.MaxQueued-1] != byte(i) {
			t.Fatalf("call %d is %d of %d bytes", i+1, f.ID, len(f.Payload))
		}
	}
	w.Close() // and what was never written is proven not to have begun
}

func TestWhatWasQueuedBeforeTheEndNeverBegan(t *testing.T) {
	h := newHouse(t)
	_, w, link := h.upSaying(&bridgev1.Hello{Slots: 256})
	var watchers []*watcher
	for range 60 {
		seen := newWatcher()
		watchers = append(watchers, seen)
		if err := link.Queue(newCall(seen), requestOf(make([]byte, bridge.MaxQueued))); err != nil {
			t.Fatal(err)
		}
	}
	link.Flush()
	w.Accept(w.Data.Expect(bridge.KindCall).ID)
	<-watchers[0].accepted
	_ = w.Data.Conn.Close()
	for i, seen := range watchers {
		want := bridge.NotStarted
		if i == 0 {
			want = bridge.MaybeExecuted
		}
		if end := seen.end(t); end.Kind != want {
			t.Errorf("call %d ended as %d, want %d", i, end.Kind, want)
		}
	}
}

// again begins its call anew, at another worker, when the first proves not to have begun it.
type again struct {
	*watcher
	call *bridge.Call
	next *bridge.Worker
	wake chan struct{}
}

func (a *again) CallEnded(e bridge.End) bool {
	if e.Kind != bridge.NotStarted {
		return a.watcher.CallEnded(e)
	}
	a.call.Init(a, a.wake)
	if err := a.next.Queue(a.call, &bridge.Request{Stream: true, MaxMessage: 1 << 20}); err != nil {
		return a.watcher.CallEnded(e)
	}
	a.next.Flush()
	return true
}

func TestAStreamBeginsAnewWithNothingLost(t *testing.T) {
	h := newHouse(t)
	s, w, first := h.up()
	other := fakeworker.DialWorker(t, h.socket, s.Started(1, 2))
	h.expect("up")
	a := &again{watcher: newWatcher(), call: &bridge.Call{}, next: h.worker(2), wake: make(chan struct{}, 1)}
	a.call.Init(a, a.wake)
	a.call.Expect()
	if err := first.Queue(a.call, &bridge.Request{Stream: true, MaxMessage: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	first.Flush()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sent := make(chan error, 1)
	go func() { sent <- errors.Join(a.call.Send(ctx, [][]byte{[]byte("one")}, 3), a.call.CloseSend(ctx)) }()
	w.Data.Expect(bridge.KindCall)
	w.Close() // before it accepted: the message has not left
	id := other.Data.Expect(bridge.KindCall).ID
	other.Accept(id)
	if f := other.Data.Expect(bridge.KindMessage); string(f.Payload) != "one" {
		t.Fatalf("%+v", f)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	other.Answer(id, []byte("got it"))
	if m, _ := recv(t, a.call); string(m) != "got it" {
		t.Fatalf("%q", m)
	}
}

func TestUsageAndKill(t *testing.T) {
	h := newHouse(t)
	s, w, link := h.up()
	s.Tell(&bridgev1.FromSupervisor{Kind: &bridgev1.FromSupervisor_Usage{Usage: &bridgev1.Usage{Workers: []*bridgev1.WorkerUsage{
		{Incarnation: w.ID, CpuUs: 5, PrivateBytes: 6}, {Incarnation: &bridgev1.Incarnation{PodUid: pod, Nonce: 99}}}}}})
	h.expect("used")
	if !h.server.Kill(link, "STUCK", true) {
		t.Fatal("no supervisor")
	}
	kill := s.Hear().GetKill()
	if kill.GetCause() != "STUCK" || !kill.GetDumpStacks() || kill.GetIncarnation().GetNonce() != 1 {
		t.Fatalf("%v", kill)
	}
}

// A payload of many frames delays another call's first byte by one frame at most.
func TestALongRequestLetsOthersPass(t *testing.T) {
	h := newHouse(t)
	_, w, link := h.upSaying(&bridgev1.Hello{Slots: 2})
	long := bytes.Repeat([]byte("l"), 1<<20)
	c, _ := start(t, link, long)
	done := make(chan error, 1)
	go func() { done <- c.SendRest(context.Background(), [][]byte{long}, len(long)) }()
	f := w.Data.Expect(bridge.KindCall)
	w.Accept(f.ID)
	w.Data.Expect(bridge.KindMessage)
	start(t, link, []byte("short"))
	after := 0
	for {
		f, err := w.Data.Read()
		if err != nil {
			t.Fatal(err)
		}
		if f.Kind == bridge.KindCall {
			break
		}
		if after++; after > 3 { // what was on its way, and one more
			t.Fatalf("%d frames of the long request came before the short one", after)
		}
	}
	go func() { _, _ = io.Copy(io.Discard, w.Data.Conn) }()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
