package upstream

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/bridge/fakeworker"
	"github.com/snakepit-k8s/snakepit/router/dispatch"
	"github.com/snakepit-k8s/snakepit/router/front"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const pod = "pod-1"

func testSettings(workers int) Settings {
	return Settings{
		Dispatch: dispatch.Settings{Affinity: dispatch.StrictQueue, MaxPerWorker: 4, IdleTimeout: time.Minute, MaxLength: 10, PerSession: 4,
			QueueTimeout: 5 * time.Second, DrainTimeout: time.Second},
		CallTimeout: 5 * time.Second, KillAfter: time.Second, StartupTimeout: 10 * time.Second, MaxMessage: 1 << 20, Wanted: workers, Sole: true,
	}
}

// scene is a pool with its bridge.
type scene struct {
	*Pool
	t      testing.TB
	socket string
	ctx    context.Context
}

func newScene(t testing.TB, s Settings) *scene {
	t.Helper()
	dir, err := os.MkdirTemp("", "spk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	registry := prometheus.NewRegistry()
	p := New(Config{PodUID: pod, PodName: "demo-0", Log: logr.Discard(), Now: time.Now, Metrics: NewMetrics(registry)}, s)
	p.Register(registry)
	server := bridge.NewServer(bridge.Config{Pod: pod, MaxMessage: func() int { return int(p.MaxMessageBytes()) }, Handler: p, Buffers: Buffers{}})
	p.Attach(server)
	socket := filepath.Join(dir, "b.sock")
	l, err := bridge.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		if families, err := registry.Gather(); err != nil || len(families) < 8 {
			t.Errorf("metrics: %d families, %v", len(families), err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &scene{p, t, socket, ctx}
}

// worker connects a worker in the slot.
func (s *scene) worker(sup *fakeworker.Supervisor, slot uint32, nonce uint64) *fakeworker.Worker {
	s.t.Helper()
	w := fakeworker.DialWorker(s.t, s.socket, sup.Started(slot, nonce), &bridgev1.Tool{Name: "echo"})
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

func (s *scene) eventually(ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not in time: %+v", s.Facts())
		}
	}
}

type result struct {
	data     []byte
	answer   front.Answer
	headers  metadata.MD
	trailers metadata.MD
	err      error
}

// call runs one call of the tool to its end.
func (s *scene) call(c *front.Call) <-chan result {
	c.Target, c.Ready = "echo", true
	c.Request = mem.BufferSlice{mem.SliceBuffer("request")}
	return s.run(c)
}

// run runs a call that is ready to its end, joins the messages of its answer, and releases it before its result is there.
func (s *scene) run(c *front.Call) <-chan result {
	out := make(chan result, 1)
	go func() {
		x, err := s.Admit(c)
		if err != nil {
			out <- result{err: err}
			return
		}
		r := s.receive(x)
		x.Release()
		out <- r
	}()
	return out
}

func (s *scene) receive(x front.Exchange) (r result) {
	for r.err == nil {
		var reply front.Reply
		reply, r.err = x.Recv(s.ctx)
		r.data = append(r.data, reply.Message.Materialize()...)
		if reply.Headers != nil {
			r.headers = reply.Headers
		}
		r.trailers = reply.Trailers
	}
	if errors.Is(r.err, io.EOF) {
		r.err = nil
	}
	r.answer = *x.Answer()
	return r
}

func (r result) failure(t *testing.T) *front.Failure {
	t.Helper()
	var f *front.Failure
	if !errors.As(r.err, &f) {
		t.Fatalf("no failure: %v", r.err)
	}
	return f
}

func serve(w *fakeworker.Worker, text string) bridge.Frame {
	f := w.Data.Expect(bridge.KindCall)
	w.Accept(f.ID)
	w.Answer(f.ID, []byte(text))
	return f
}

func TestACallThatWasNotBegunIsRepeatedElsewhere(t *testing.T) {
	s := newScene(t, testSettings(2))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	first := s.worker(sup, 0, 1)
	second := s.worker(sup, 1, 2)
	got := s.call(&front.Call{RequestID: "r"})
	first.Data.Expect(bridge.KindCall)
	first.Close()
	serve(second, "done")
	if r := <-got; r.err != nil || string(r.data) != "done" {
		t.Fatalf("%q, %v", r.data, r.err)
	}
}

func TestACallIsNotGivenToAThirdWorkerAfterTwoDied(t *testing.T) {
	s := newScene(t, testSettings(3))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	var workers []*fakeworker.Worker
	for i := range uint32(3) {
		workers = append(workers, s.worker(sup, i, uint64(i+1)))
	}
	got := s.call(&front.Call{RequestID: "r"})
	for _, w := range workers[:2] {
		w.Data.Expect(bridge.KindCall)
		w.Close()
	}
	if f := (<-got).failure(t); f.Reason != front.ReasonWorkerDied || f.Execution == front.MaybeExecuted {
		t.Fatalf("%+v", f)
	}
}

func TestAnAcceptedCallThatBreaksMayHaveRun(t *testing.T) {
	s := newScene(t, testSettings(1))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	w := s.worker(sup, 0, 1)
	got := s.call(&front.Call{Session: "s", Create: true})
	w.Data.Expect(bridge.KindSessionOpen)
	w.Accept(w.Data.Expect(bridge.KindCall).ID)
	w.Close()
	f := (<-got).failure(t)
	if f.Reason != front.ReasonWorkerDied || f.Execution != front.MaybeExecuted || f.Info["token"] == "" {
		t.Fatalf("%+v", f)
	}
	sup.Exited(w.ID, "KILLED")
	s.eventually(func() bool { return s.Facts().Sessions == 0 })
	next := <-s.call(&front.Call{Session: "s", Token: f.Info["token"]})
	if f := next.failure(t); f.Reason != front.ReasonSessionLost || f.Info["cause"] != "KILLED" {
		t.Fatalf("%+v", f)
	}
}

func TestALifeThatHeldNothingIsBoundAgainSilently(t *testing.T) {
	s := newScene(t, testSettings(2))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	w := s.worker(sup, 0, 1)
	got := s.call(&front.Call{Session: "s", Create: true})
	first := w.Data.Expect(bridge.KindSessionOpen).Epoch
	w.Close()
	sup.Exited(w.ID, "KILLED")
	other := s.worker(sup, 1, 2)
	if again := other.Data.Expect(bridge.KindSessionOpen).Epoch; again <= first {
		t.Fatalf("epoch %d after %d", again, first)
	}
	serve(other, "done")
	if r := <-got; r.err != nil || r.answer.SessionState != "new" {
		t.Fatalf("%+v", r)
	}
}

func TestOpenSessionWaitsForSessionStart(t *testing.T) {
	s := newScene(t, testSettings(1))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	w := s.worker(sup, 0, 1)
	type opened struct {
		front.Session
		err error
	}
	open := func() <-chan opened {
		out := make(chan opened, 1)
		go func() {
			x, err := s.OpenSession(s.ctx, &front.Call{Session: "s"})
			out <- opened{x, err}
		}()
		return out
	}
	got := open()
	e := w.Data.Expect(bridge.KindSessionOpen).Epoch
	w.Data.Send(&bridge.Frame{Kind: bridge.KindSessionOpened, Epoch: e, Status: bridge.OpenedRaised})
	if r := <-got; r.err == nil {
		t.Fatal("session_start raised and nobody was told")
	}
	got = open()
	e = w.Data.Expect(bridge.KindSessionOpen).Epoch
	w.Data.Send(&bridge.Frame{Kind: bridge.KindSessionOpened, Epoch: e, Status: bridge.OpenedFloor})
	higher := w.Data.Expect(bridge.KindSessionOpen).Epoch
	if higher < e+uint64(time.Hour/time.Microsecond) {
		t.Fatalf("after a refusal by the floor %d came %d", e, higher)
	}
	w.Data.Send(&bridge.Frame{Kind: bridge.KindSessionOpened, Epoch: higher})
	r := <-got
	if r.err != nil || r.Epoch != higher || r.Answer.SessionToken == "" {
		t.Fatalf("%+v", r)
	}
	if joined := <-open(); joined.err != nil || joined.Epoch != higher || joined.Answer.SessionState != "bound" {
		t.Fatalf("joined: %+v", joined)
	}
	if f := s.Facts(); f.Running != 0 || f.Sessions != 1 {
		t.Fatalf("%+v", f)
	}
}

func TestRecoveryKeepsSessionsAndRefusesUntilThen(t *testing.T) {
	s := newScene(t, testSettings(1))
	if f := (<-s.call(&front.Call{Session: "s"})).failure(t); f.Reason != front.ReasonRecovering || f.Wait == 0 {
		t.Fatalf("%+v", f)
	}
	state := fakeworker.State(pod, 3, 9, &bridgev1.Session{Name: "s", Epoch: 77})
	fakeworker.DialSupervisor(t, s.socket, pod, state).ExpectSlots(3) // the slot that holds a worker is kept
	w := fakeworker.DialWorker(t, s.socket, state.GetIncarnation(), &bridgev1.Tool{Name: "echo"})
	got := s.call(&front.Call{Session: "s"})
	if f := serve(w, "kept"); f.Epoch != 77 {
		t.Fatalf("epoch %d", f.Epoch)
	}
	if r := <-got; r.err != nil || r.answer.SessionState != "bound" {
		t.Fatalf("%+v", r)
	}
}

func TestACallBeyondItsLimitIsCancelledThenItsWorkerKilled(t *testing.T) {
	settings := testSettings(1)
	settings.CallTimeout, settings.KillAfter = 50*time.Millisecond, 50*time.Millisecond
	s := newScene(t, settings)
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	sup.ExpectSlots(0)
	w := s.worker(sup, 0, 1)
	got := s.call(&front.Call{})
	w.Accept(w.Data.Expect(bridge.KindCall).ID)
	s.eventually(func() bool { s.Tick(); return s.killed() })
	if f := w.Control.Expect(bridge.KindCancel); f.Cause != bridge.CancelByDeadline {
		t.Fatalf("cancel %+v", f)
	}
	for sup.Hear().GetKill().GetCause() != "CALL_TIMEOUT" {
	}
	w.Close()
	if f := (<-got).failure(t); f.Reason != front.ReasonCallTimeout {
		t.Fatalf("%+v", f)
	}
}

func (s *scene) killed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.links {
		if l.killed {
			return true
		}
	}
	return false
}

func TestASilentCallerLosesItsSlot(t *testing.T) {
	s := newScene(t, testSettings(1))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	s.worker(sup, 0, 1)
	silent, err := s.Admit(&front.Call{})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Release()
	if err := silent.Wait(s.ctx); err != nil {
		t.Fatal(err)
	}
	later := s.now().Add(front.RequestTimeout + time.Second)
	s.mu.Lock()
	s.running.head.expectRequest(later)
	s.unlock()
	if f := s.Facts(); f.Running != 0 {
		t.Fatalf("%d in flight", f.Running)
	}
	if err := silent.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := silent.Recv(s.ctx); err == nil {
		t.Fatal("started without a slot")
	}
}

func TestDrainEmptiesTheSlots(t *testing.T) {
	s := newScene(t, testSettings(2))
	sup := fakeworker.DialSupervisor(t, s.socket, pod)
	w := s.worker(sup, 0, 1)
	got := s.call(&front.Call{Session: "s", Create: true})
	w.Data.Expect(bridge.KindSessionOpen)
	serve(w, "x")
	token := (<-got).answer.SessionToken
	s.Drain(s.now().Add(200 * time.Millisecond))
	if f := (<-s.call(&front.Call{})).failure(t); f.Reason != front.ReasonDraining {
		t.Fatalf("%+v", f)
	}
	sup.ExpectSlots(0) // only the slot of the session is kept
	got = s.call(&front.Call{Session: "s", Token: token})
	serve(w, "still here")
	if r := <-got; r.err != nil || r.answer.EndsAt.IsZero() {
		t.Fatalf("%+v", r)
	}
	s.eventually(func() bool { s.Tick(); return s.Facts().Drained })
	if f := w.Data.Expect(bridge.KindSessionClose); f.Cause != dispatch.CloseDrain {
		t.Fatalf("%+v", f)
	}
	sup.ExpectSlots()
	if f := (<-s.call(&front.Call{Session: "s", Token: token})).failure(t); f.Reason != front.ReasonSessionLost || f.Info["cause"] != "DRAINED" {
		t.Fatalf("%+v", f)
	}
}

// On SIGTERM the supervisor says how long the pod has; calls and sessions have no more than drain.timeout of it.
func TestADrainOfThePodIsBoundedByDrainTimeout(t *testing.T) {
	for _, c := range []struct {
		left time.Duration
		want time.Duration // the scene's drain.timeout is a second
	}{{time.Minute, time.Second}, {800 * time.Millisecond, 500 * time.Millisecond}} {
		s := newScene(t, testSettings(1))
		earliest := s.now().Add(c.want)
		s.DrainRequested(c.left)
		if latest := s.now().Add(c.want); s.drainBy.Before(earliest) || s.drainBy.After(latest) {
			t.Errorf("%s left: drains until %s, want it between %s and %s", c.left, s.drainBy, earliest, latest)
		}
	}
}
