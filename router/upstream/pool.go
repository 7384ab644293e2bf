package upstream

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc/codes"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/dispatch"
	"github.com/snakepit-k8s/snakepit/router/front"
)

// Config of a Pool.
type Config struct {
	PodUID  string
	PodName string // how callers see the worker's pod
	Log     logr.Logger
	Now     func() time.Time
	Metrics *Metrics
}

// Pool is the front's view of the workers. It implements front.Pool and bridge.Handler.
type Pool struct {
	config   Config
	log      logr.Logger
	now      func() time.Time
	metrics  *Metrics
	server   *bridge.Server
	started  time.Time
	settings atomic.Pointer[Settings]
	tools    atomic.Pointer[toolTable] // of the worker that connected last
	changed  chan struct{}             // poked when Facts may have changed

	sending    sync.Mutex // keeps Desired messages in order
	generation uint64

	mu       sync.Mutex
	d        *dispatch.Dispatcher
	links    map[*link]struct{}
	running  map[*call]struct{} // written to a worker, not ended
	slots    [dispatch.MaxSlots]slotFacts
	adapter  *bridgev1.AdapterState
	flush    []*bridge.Worker // have queued closes
	desired  bool             // changed: to be sent
	waiting  bool             // for the supervisor's first word
	ready    bool             // a worker has been ready once
	attached bool             // a supervisor is connected
	drainBy  time.Time
}

// slotFacts is the history of one slot.
type slotFacts struct {
	restarts  int
	lastError string
	failing   bool      // the last process ended before it was ready
	brokeAt   time.Time // when the last process's connection broke; zero once a replacement is ready
}

// link is what this package knows of one incarnation.
type link struct {
	worker  *bridge.Worker
	target  *dispatch.Worker
	name    string // <pod>/<slot>/<nonce>
	tools   *toolTable
	began   time.Time
	opening *call     // OpenSession that waits for SessionOpened
	busyBy  time.Time // a call of an earlier router runs there; zero for none
	wasUp   bool
	killed  bool
}

// New makes a pool without workers.
func New(c Config, s Settings) *Pool {
	p := &Pool{
		config: c, log: c.Log, now: c.Now, metrics: c.Metrics, started: c.Now(), changed: make(chan struct{}, 1),
		links: map[*link]struct{}{}, running: map[*call]struct{}{}, waiting: true,
	}
	p.d = dispatch.New(c.PodUID, s.Dispatch, p.started)
	p.settings.Store(&s)
	p.SetSettings(s)
	return p
}

// Attach gives the pool its bridge; call it before the bridge serves.
func (p *Pool) Attach(s *bridge.Server) { p.server = s }

// Changed is poked when Facts may have changed.
func (p *Pool) Changed() <-chan struct{} { return p.changed }

// MaxMessageBytes is calls.maxMessageBytes as it is now.
func (p *Pool) MaxMessageBytes() int64 { return int64(p.settings.Load().MaxMessage) }

// SetSettings follows new settings.
func (p *Pool) SetSettings(s Settings) {
	now := p.now()
	p.mu.Lock()
	p.settings.Store(&s)
	p.d.SetSettings(s.Dispatch)
	p.d.SetSole(s.Sole, s.Standby)
	p.d.SetWanted(s.Wanted, now)
	p.desired = true // method and times may differ
	if !s.DrainBy.IsZero() {
		p.drain(s.DrainBy, now)
	}
	p.unlock()
}

// Drain ends the group by the deadline at the latest.
func (p *Pool) Drain(by time.Time) {
	p.mu.Lock()
	p.drain(by, p.now())
	p.unlock()
}

// Retire refuses what waits and every later call: this router ends, its workers stay.
func (p *Pool) Retire() {
	p.mu.Lock()
	p.d.Retire(p.now())
	p.unlock()
}

func (p *Pool) drain(by, now time.Time) {
	if !p.drainBy.IsZero() && !by.Before(p.drainBy) {
		return
	}
	p.drainBy = by
	p.log.Info("draining: no new sessions, calls without a session are refused", "deadline", by)
	p.d.Drain(by, now)
}

// unlock carries out what dispatch decided, and ends the critical section.
func (p *Pool) unlock() {
	for _, a := range p.d.Actions() {
		switch a.Kind {
		case dispatch.Run:
			a.Call.Owner.(*call).assign(a.Worker)
		case dispatch.Refuse:
			a.Call.Owner.(*call).refuse(a.Refusal)
		case dispatch.Close:
			w := a.Worker.Link.(*link).worker
			w.QueueClose(a.Epoch, a.Cause)
			p.flush = append(p.flush, w)
		case dispatch.Desired:
			p.desired = true
		}
	}
	flush, desired := p.flush, p.desired
	p.flush, p.desired = nil, false
	p.mu.Unlock()
	for _, w := range flush {
		w.Flush()
	}
	if desired {
		p.sendDesired()
		p.poke()
	}
}

func (p *Pool) poke() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// sendDesired tells the supervisor the whole wish.
func (p *Pool) sendDesired() {
	p.sending.Lock()
	defer p.sending.Unlock()
	p.mu.Lock()
	slots, server := p.d.DesiredSlots(), p.server
	p.mu.Unlock()
	if slots == nil || server == nil {
		return
	}
	s := p.settings.Load()
	p.generation++
	server.ToSupervisor(&bridgev1.ToSupervisor{Kind: &bridgev1.ToSupervisor_Desired{Desired: &bridgev1.Desired{
		Generation: p.generation, Slots: slots, Method: s.StartMethod,
		StartupTimeoutMs: uint64(s.StartupTimeout.Milliseconds()), StopGraceMs: uint64(s.StopGrace.Milliseconds()),
	}}})
}

// Tick does what time asks for; call it every 100 ms or so.
func (p *Pool) Tick() {
	now := p.now()
	s := p.settings.Load()
	var late []*bridge.Call
	var kills []*link
	p.mu.Lock()
	if p.waiting && now.Sub(p.started) > s.StartupTimeout {
		p.waiting = false
		p.d.Recovered()
		p.log.Info("no supervisor within the startup time; sessions of an earlier router are taken as ended")
	}
	p.d.Tick(now)
	for c := range p.running {
		if c.phase == assigned {
			c.expectRequest(now)
			continue
		}
		over := now.Sub(c.began) - s.CallTimeout
		if over >= 0 && !c.late {
			c.late = true
			if c.wire != nil {
				late = append(late, c.wire)
			}
		}
		if over >= s.KillAfter && !c.link.killed {
			c.link.killed = true
			kills = append(kills, c.link)
		}
	}
	for l := range p.links {
		if !l.busyBy.IsZero() && now.After(l.busyBy) && !l.killed && l.target.State != dispatch.Ready {
			l.killed = true
			kills = append(kills, l)
		}
	}
	p.unlock()
	for _, w := range late {
		w.Cancel(bridge.CancelByDeadline)
	}
	for _, l := range kills {
		p.log.Info("killing a worker whose call is stuck", "worker", l.name, "limit", s.CallTimeout+s.KillAfter)
		if !p.server.Kill(l.worker, causeCallTimeout) {
			p.mu.Lock()
			l.killed = false // no supervisor: tried again
			p.mu.Unlock()
		}
	}
}

// requestTimeout bounds the time that a reserved worker waits for the caller's message.
const requestTimeout = 10 * time.Second

// expectRequest gives the slot to others when the caller does not send its message; under Pool.mu.
func (c *call) expectRequest(now time.Time) {
	if now.Sub(c.began) < requestTimeout {
		return
	}
	c.failure = &front.Failure{
		Code: codes.DeadlineExceeded, Reason: front.ReasonQueueTimeout,
		Message: "the request did not arrive within " + requestTimeout.String() + " after a worker was reserved for it",
	}
	c.abandon(now)
}

const causeCallTimeout = "CALL_TIMEOUT"

func (p *Pool) workerName(id bridge.Incarnation) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], id.Nonce)
	return fmt.Sprintf("%s/%d/%s", p.config.PodName, id.Slot, hex.EncodeToString(b[:]))
}

// toolTable is what one worker declared.
type toolTable struct {
	tools []front.Tool
	index map[string]int
}

func newToolTable(declared []*bridgev1.Tool) *toolTable {
	t := &toolTable{index: make(map[string]int, len(declared))}
	for i, d := range declared {
		t.tools = append(t.tools, front.Tool{
			Name: d.GetName(), Description: d.GetDescription(), ParametersSchema: d.GetParametersSchema(),
			Streaming: d.GetKind() == bridgev1.ToolKind_TOOL_KIND_STREAM, Idempotent: d.GetIdempotent(),
		})
		if _, ok := t.index[d.GetName()]; !ok {
			t.index[d.GetName()] = i
		}
	}
	return t
}

// Tools of the adapter; false before a worker has declared them.
func (p *Pool) Tools() ([]front.Tool, bool) {
	t := p.tools.Load()
	if t == nil {
		return nil, false
	}
	return t.tools, true
}
