package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"google.golang.org/protobuf/proto"
)

// Times and bounds of the handshake and the heartbeat.
const (
	helloTimeout    = 5 * time.Second
	identityTimeout = 10 * time.Second
	duplicateWait   = time.Second
	exitWait        = 500 * time.Millisecond
	acceptPause     = 100 * time.Millisecond
	maxStrangers    = 16
	maxConnections  = 2*256 + 1 + maxStrangers
)

// Handler is told what happens on the connections. Its methods are called from the goroutines that read them, without any lock of this package;
// those about the supervisor come one at a time.
type Handler interface {
	// WorkerRegistered: the supervisor announced an incarnation; state is nil when it is about to be started. It comes again with further sessions
	// of the same worker, when they did not fit in the Hello.
	WorkerRegistered(w *Worker, state *bridgev1.WorkerState)
	// WorkerExited: its end is proven, and its calls have ended; exit is nil when the supervisor only stopped listing it.
	WorkerExited(w *Worker, exit *bridgev1.WorkerExited)
	// WorkerUp: both its connections are welcome. WorkerDown: one of them broke; comes before the ends of its calls.
	WorkerUp(w *Worker)
	WorkerDown(w *Worker)
	SessionOpened(w *Worker, epoch uint64, status uint16, end *bridgev1.SessionEnd)
	SessionClosed(w *Worker, epoch uint64, status uint16, end *bridgev1.SessionEnd)
	// Remembered: lives that an earlier router told lost, as the supervisor kept them.
	Remembered(lives []*bridgev1.LostLife)
	// SupervisorUp comes after all that its Hello caused.
	SupervisorUp(state *bridgev1.SupervisorState)
	SupervisorDown()
	Adapter(state *bridgev1.AdapterState)
	DrainRequested(left time.Duration)
	SessionChanged(w *Worker, change *bridgev1.SessionChanged)
	// Used: the supervisor measured the worker's private memory, in bytes; 0 when it did not.
	Used(w *Worker, privateBytes uint64)
	// WorkerStuck: it is silent and uses no CPU time. It comes again each round while that lasts.
	WorkerStuck(w *Worker)
	// Note is for the log: something was refused or broke.
	Note(text string, err error)
}

// Config of a Server.
type Config struct {
	// Pod is the UID that every Hello must carry. Empty: any, for a router outside Kubernetes.
	Pod string
	// Instance is a random number of this router process.
	Instance uint64
	// MaxMessage tells the largest message in bytes, now.
	MaxMessage func() int
	Handler    Handler
	// Heartbeat tells how workers are asked for signs of life, now; nil for DefaultHeartbeat.
	Heartbeat func() Heartbeat
	// Buffers lends memory for answers; nil takes it from the heap.
	Buffers Buffers
}

// Buffers lends memory. Put may be called from any goroutine, with what Get returned.
type Buffers interface {
	Get(length int) *[]byte
	Put(*[]byte)
}

// heap is memory that the garbage collector takes back.
type heap struct{}

func (heap) Get(n int) *[]byte { b := make([]byte, n); return &b }
func (heap) Put(*[]byte)       {}

// Server listens for the workers and the supervisor of one container.
type Server struct {
	config  Config
	handler Handler

	mu         sync.Mutex
	workers    map[Incarnation]*Worker
	supervisor *conn
	conns      map[*conn]struct{}
	changed    chan struct{} // closed and replaced whenever a Hello that is held might become acceptable
	closed     bool
	strangers  atomic.Int32
	group      sync.WaitGroup
}

// NewServer makes a server; Serve runs it.
func NewServer(c Config) *Server {
	if c.Buffers == nil {
		c.Buffers = heap{}
	}
	if c.Heartbeat == nil {
		c.Heartbeat = func() Heartbeat { return DefaultHeartbeat }
	}
	return &Server{config: c, handler: c.Handler, workers: map[Incarnation]*Worker{}, conns: map[*conn]struct{}{}, changed: make(chan struct{})}
}

// Listen makes the unix socket, in place of one that a dead router left behind.
func Listen(path string) (net.Listener, error) {
	if probe, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = probe.Close()
		return nil, fmt.Errorf("bridge socket %s is in use by another router: stop it, or choose another --bridge-socket", path)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s exists and is not a socket: choose another --bridge-socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the stale bridge socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the bridge socket: %w", err)
	}
	// The folder is private to the pod; the worker container runs as another user.
	if err := os.Chmod(path, 0o666); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("open the bridge socket to workers: %w", err)
	}
	return l, nil
}

// passing says that an error of Accept is about this moment (descriptors, memory, a peer that left), and not about the listener.
func passing(err error) bool {
	for _, cause := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.ECONNABORTED} {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}

// Serve accepts connections until the context ends; then it closes all of them and waits for their goroutines.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	s.group.Go(func() { s.heartbeat(ctx) })
	for {
		c, err := l.Accept()
		if err != nil && ctx.Err() == nil && passing(err) {
			s.handler.Note("a connection could not be accepted; trying again", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		if err != nil {
			s.close()
			s.group.Wait()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on the bridge socket: %w", err)
		}
		s.mu.Lock()
		full := len(s.conns) >= maxConnections || s.closed
		s.mu.Unlock()
		if full || s.strangers.Add(1) > maxStrangers {
			if !full {
				s.strangers.Add(-1)
			}
			_ = c.Close()
			continue
		}
		s.group.Go(func() { s.serve(newConn(c, s.config.Buffers)) })
	}
}

func (s *Server) close() {
	s.mu.Lock()
	s.closed = true
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.notifyLocked()
	s.mu.Unlock()
	for _, c := range conns {
		c.goodbye(bridgev1.GoodbyeReason_GOODBYE_REASON_SHUTDOWN, "the router ends")
	}
}

func (s *Server) notifyLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// serve is the life of one connection.
func (s *Server) serve(c *conn) {
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		c.end()
		c.dropHanded()
	}()
	hello, err := s.readHello(c)
	c.greeted()
	s.strangers.Add(-1)
	if err != nil {
		s.handler.Note("a connection without a proper Hello", err)
		c.goodbye(bridgev1.GoodbyeReason_GOODBYE_REASON_PROTOCOL_ERROR, err.Error())
		return
	}
	if reason, why := checkHello(hello); why != "" {
		s.refuse(c, hello, reason, why)
		return
	}
	c.role, c.version = hello.GetRole(), commonVersion(hello)
	if s.config.Pod != "" && hello.GetIncarnation().GetPodUid() != s.config.Pod {
		s.refuse(c, hello, bridgev1.GoodbyeReason_GOODBYE_REASON_IDENTITY, "this router serves another pod")
		return
	}
	if c.role == bridgev1.Role_ROLE_SUPERVISOR {
		s.serveSupervisor(c, hello)
		return
	}
	s.serveWorker(c, hello)
}

func (s *Server) refuse(c *conn, h *bridgev1.Hello, reason bridgev1.GoodbyeReason, why string) {
	s.handler.Note("refused a "+h.GetRole().String()+" connection", errors.New(why))
	c.goodbye(reason, why)
}

func (s *Server) readHello(c *conn) (*bridgev1.Hello, error) {
	_ = c.SetReadDeadline(time.Now().Add(helloTimeout))
	defer func() { _ = c.SetReadDeadline(time.Time{}) }()
	var f Frame
	if _, err := c.readFrame(&f); err != nil {
		return nil, fmt.Errorf("read Hello: %w", err)
	}
	if f.Kind != KindHello {
		return nil, fmt.Errorf("the first frame is of kind 0x%02x, not Hello", uint8(f.Kind))
	}
	hello := &bridgev1.Hello{}
	if err := proto.Unmarshal(f.Payload, hello); err != nil {
		return nil, fmt.Errorf("parse Hello: %w", err)
	}
	return hello, nil
}

// welcome answers an accepted Hello.
func (s *Server) welcome(c *conn) error {
	payload, err := proto.Marshal(&bridgev1.Welcome{
		Version: c.version, RouterInstance: s.config.Instance, MaxFrameBytes: MaxFrame,
		InitialWindowBytes: InitialWindow, MaxMessageBytes: uint64(s.config.MaxMessage()),
		Marks: c.marks != nil,
	})
	if err != nil {
		return err
	}
	f := Frame{Kind: KindWelcome, Payload: payload}
	err = c.send(f.Append(nil))
	_ = c.SetWriteDeadline(time.Time{}) // a worker may take its time with what it is sent
	c.hailed.Store(err == nil)
	return err
}

// hold waits until accept says yes (true) or the wait it names is over (false). accept runs under the server's lock.
func (s *Server) hold(accept func() (ok bool, wait time.Duration)) bool {
	began := time.Now()
	for {
		s.mu.Lock()
		ok, wait := accept()
		changed, closed := s.changed, s.closed
		s.mu.Unlock()
		if ok {
			return true
		}
		left := wait - time.Since(began)
		if closed || left <= 0 {
			return false
		}
		timer := time.NewTimer(left)
		select {
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// heartbeat asks what is connected for a sign of life, and judges silence.
func (s *Server) heartbeat(ctx context.Context) {
	timer := time.NewTimer(s.config.Heartbeat().Interval)
	defer timer.Stop()
	for nonce := uint64(1); ; nonce++ {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		h := s.config.Heartbeat()
		timer.Reset(h.Interval)
		s.ping(nonce)
		for _, w := range s.connected() {
			if w.judge(time.Now(), h) == stuck {
				s.handler.WorkerStuck(w)
			}
		}
	}
}

func (s *Server) ping(nonce uint64) {
	ping := (&Frame{Kind: KindPing, Nonce: nonce}).Append(nil)
	s.mu.Lock()
	var conns []*conn
	for c := range s.conns {
		if (c.role == bridgev1.Role_ROLE_CONTROL || c.role == bridgev1.Role_ROLE_SUPERVISOR) && c.hailed.Load() {
			conns = append(conns, c)
		}
	}
	s.mu.Unlock()
	for _, c := range conns {
		_ = c.send(ping) // a broken link is told by its reader
	}
}

func (s *Server) connected() []*Worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	var up []*Worker
	for _, w := range s.workers {
		w.mu.Lock()
		if w.up {
			up = append(up, w)
		}
		w.mu.Unlock()
	}
	return up
}

// judge is one round of the worker's heartbeat.
func (w *Worker) judge(now time.Time, h Heartbeat) judgement {
	heard := w.heard()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pulse.round(now, heard, w.usage, h)
}
