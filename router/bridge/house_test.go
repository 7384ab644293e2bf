package bridge_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/bridge/fakeworker"
)

const pod = "pod-1"

// house is a bridge with a handler that remembers.
type house struct {
	t      *testing.T
	socket string
	server *bridge.Server

	mu      sync.Mutex
	workers map[uint64]*bridge.Worker
	events  []string
	changed chan struct{}
}

func newHouse(t *testing.T) *house {
	t.Helper()
	return newHouseOn(t, func(l net.Listener) net.Listener { return l })
}

// newHouseOn is newHouse with another listener before the bridge's own.
func newHouseOn(t *testing.T, wrap func(net.Listener) net.Listener) *house {
	t.Helper()
	dir, err := os.MkdirTemp("", "spk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &house{t: t, socket: filepath.Join(dir, "b.sock"), workers: map[uint64]*bridge.Worker{}, changed: make(chan struct{}, 1000)}
	h.server = bridge.NewServer(bridge.Config{Pod: pod, Instance: 7, MaxMessage: func() int { return 8 << 20 }, Handler: h})
	l, err := bridge.Listen(h.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.server.Serve(ctx, wrap(l)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *house) note(event string) {
	h.mu.Lock()
	h.events = append(h.events, event)
	h.mu.Unlock()
	h.changed <- struct{}{}
}

func (h *house) WorkerRegistered(w *bridge.Worker, _ *bridgev1.WorkerState) {
	h.mu.Lock()
	h.workers[w.ID.Nonce] = w
	h.mu.Unlock()
	h.note("registered")
}
func (h *house) WorkerExited(*bridge.Worker, *bridgev1.WorkerExited) { h.note("exited") }
func (h *house) WorkerUp(*bridge.Worker)                             { h.note("up") }
func (h *house) WorkerDown(*bridge.Worker)                           { h.note("down") }
func (h *house) SessionOpened(*bridge.Worker, uint64, uint16, *bridgev1.SessionEnd) {
	h.note("opened")
}
func (h *house) SessionClosed(*bridge.Worker, uint64, uint16, *bridgev1.SessionEnd) {
	h.note("closed")
}
func (h *house) Remembered(l []*bridgev1.LostLife) {
	for _, x := range l {
		h.note("lost " + x.GetSession().GetName())
	}
}
func (h *house) SupervisorUp(*bridgev1.SupervisorState)                  { h.note("supervisor up") }
func (h *house) SupervisorDown()                                         { h.note("supervisor down") }
func (h *house) Adapter(*bridgev1.AdapterState)                          { h.note("adapter") }
func (h *house) DrainRequested(time.Duration)                            { h.note("drain") }
func (h *house) SessionChanged(*bridge.Worker, *bridgev1.SessionChanged) { h.note("changed") }
func (h *house) Used(*bridge.Worker, uint64)                             { h.note("used") }
func (h *house) WorkerStuck(*bridge.Worker)                              { h.note("stuck") }
func (h *house) Note(text string, _ error)                               { h.note("note: " + text) }

// never says that an event has not happened yet.
func (h *house) never(what string) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.Contains(h.events, what) {
		h.t.Fatalf("%q among %q", what, h.events)
	}
}

// expect waits for an event that was not consumed yet.
func (h *house) expect(want string) {
	h.t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		h.mu.Lock()
		for i, e := range h.events {
			if e == want {
				h.events = append(h.events[:i:i], h.events[i+1:]...)
				h.mu.Unlock()
				return
			}
		}
		seen := append([]string(nil), h.events...)
		h.mu.Unlock()
		select {
		case <-h.changed:
		case <-deadline:
			h.t.Fatalf("no %q; seen %q", want, seen)
		}
	}
}

func (h *house) worker(nonce uint64) *bridge.Worker {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.workers[nonce]
}

// up brings a supervisor and one worker.
func (h *house) up() (*fakeworker.Supervisor, *fakeworker.Worker, *bridge.Worker) {
	h.t.Helper()
	s := fakeworker.DialSupervisor(h.t, h.socket, pod)
	h.expect("supervisor up")
	id := s.Started(0, 1)
	w := fakeworker.DialWorker(h.t, h.socket, id, &bridgev1.Tool{Name: "echo"})
	h.expect("up")
	return s, w, h.worker(1)
}

// watcher observes one call.
type watcher struct {
	accepted chan struct{}
	ended    chan bridge.End
}

func newWatcher() *watcher {
	return &watcher{accepted: make(chan struct{}, 1), ended: make(chan bridge.End, 1)}
}
func (w *watcher) CallAccepted()               { w.accepted <- struct{}{} }
func (w *watcher) CallEnded(e bridge.End) bool { w.ended <- e; return false }

func (w *watcher) end(t *testing.T) bridge.End {
	t.Helper()
	select {
	case e := <-w.ended:
		return e
	case <-time.After(5 * time.Second):
		t.Fatal("the call did not end")
		return bridge.End{}
	}
}

func start(t *testing.T, w *bridge.Worker, payload []byte) (*bridge.Call, *watcher) {
	t.Helper()
	seen := newWatcher()
	c := newCall(seen)
	if err := w.Queue(c, requestOf(payload)); err != nil {
		t.Fatal(err)
	}
	w.Flush()
	return c, seen
}

func newCall(o bridge.Observer) *bridge.Call {
	c := &bridge.Call{}
	c.Init(o, make(chan struct{}, 1))
	return c
}

func requestOf(payload []byte) *bridge.Request {
	return &bridge.Request{Payload: [][]byte{payload}, Size: len(payload), MaxMessage: 4 << 20}
}

// recv waits for the next message, or the end.
func recv(t *testing.T, c *bridge.Call) ([]byte, *bridge.End) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	p, err := c.Recv(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !p.HasMessage {
		return nil, p.End
	}
	m := []byte{}
	if p.Message.First != nil {
		m = append(m, *p.Message.First...)
	}
	for _, more := range p.Message.More {
		m = append(m, *more...)
	}
	if len(m) != p.Message.Size {
		t.Fatalf("a message of %d bytes says that it has %d", len(m), p.Message.Size)
	}
	return m, nil
}
