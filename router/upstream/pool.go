package upstream

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/dispatch"
	"github.com/snakepit-k8s/snakepit/router/dispatch/crash"
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

// Settings are followed while the router runs.
type Settings struct {
	Dispatch       dispatch.Settings
	CallTimeout    time.Duration
	KillAfter      time.Duration
	StartupTimeout time.Duration
	StopGrace      time.Duration
	// StreamTimeout is the limit of a call with more than one message in a direction, in place of CallTimeout; StreamIdleTimeout, of the time in
	// which none of its messages passes, 0 for none.
	StreamTimeout     time.Duration
	StreamIdleTimeout time.Duration
	MaxMessage        int
	Wanted            int
	Heartbeat         bridge.Heartbeat // zero for bridge.DefaultHeartbeat
	Recycle           dispatch.Recycle
	RecycleRequest    *RecycleRequest // nil when none is to be carried out
	// Quarantine is how long a request that killed two workers is refused; 0 for DefaultQuarantine, negative for never.
	Quarantine time.Duration
	// BatchSize and BatchInterval bound how many workers start at a time; Backoff and MaxBackoff, how soon a slot that keeps dying is tried again.
	BatchSize     int
	BatchInterval time.Duration
	Backoff       time.Duration
	MaxBackoff    time.Duration
	StartMethod   bridgev1.StartMethod
	// Sole: this pod is proven to be the only one of its group. Standby: another pod is, so this one refuses every call.
	Sole    bool
	Standby bool
	// ExposeMessages allows what exceptions said, which may be data of users, in status and Events.
	ExposeMessages bool
	// DrainBy is when a requested drain ends; zero for none. It is never taken back.
	DrainBy time.Time
}

// RecycleRequest asks for fresh processes once; a request with the ID of the one before is the same request.
type RecycleRequest struct {
	ID    string
	Slots []uint32 // to recycle; all when empty
}

// Settings where none are given.
const (
	DefaultStreamTimeout = 900 * time.Second
	DefaultQuarantine    = 10 * time.Minute
	// DefaultPrefetchBelow is how long the calls of a worker that another is sent behind may take together, by the averages of their tools.
	DefaultPrefetchBelow = 2 * time.Millisecond
)

// complete fills in what is not given; negative values say never.
func (s Settings) complete() Settings {
	fill := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
		*d = max(*d, 0)
	}
	fill(&s.StreamTimeout, DefaultStreamTimeout)
	fill(&s.Quarantine, DefaultQuarantine)
	fill(&s.Dispatch.PrefetchBelow, DefaultPrefetchBelow)
	if s.Heartbeat.Interval <= 0 {
		s.Heartbeat = bridge.DefaultHeartbeat
	}
	return s
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
	declared atomic.Pointer[front.Declared] // by the worker that connected last
	suspects atomic.Int64                   // requests that the quarantine remembers
	clock    atomic.Int64                   // unix nanoseconds of the last Tick
	changed  chan struct{}                  // poked when Facts may have changed

	sending    sync.Mutex // keeps Desired messages in order
	generation uint64

	mu         sync.Mutex
	d          *dispatch.Dispatcher
	links      map[*link]struct{}
	waiting    calls // in dispatch, by the time since when
	running    calls // have a worker and have not ended
	quarantine *crash.Quarantine
	slots      [dispatch.MaxSlots]slotFacts
	adapter    *bridgev1.AdapterState
	flush      []*bridge.Worker // have something queued
	recalls    []*bridge.Call
	keep       []*bridgev1.LostLife // to be told to the supervisor
	desired    bool                 // changed: to be sent
	early      bool                 // waits for the supervisor's first word
	ready      bool                 // a worker has been ready once
	attached   bool                 // a supervisor is connected
	drainBy    time.Time
}

// slotFacts is the history of one slot.
type slotFacts struct {
	restarts  int
	lastError string
	lastExit  Exit
	failing   bool      // the last process ended before it was ready
	brokeAt   time.Time // when the last process's connection broke; zero once a replacement is ready
}

// link is what this package knows of one incarnation.
type link struct {
	worker   *bridge.Worker
	target   *dispatch.Worker
	name     string // <pod>/<slot>/<nonce>
	declared *front.Declared
	held     []*call // whose connection broke while they may have run
	began    time.Time
	opening  *call     // OpenSession that waits for SessionOpened
	busyBy   time.Time // a call of an earlier router runs there; zero for none
	wasUp    bool
	killed   bool
	cause    string // of the Kill
}

// New makes a pool without workers.
func New(c Config, s Settings) *Pool {
	p := &Pool{
		config: c, log: c.Log, now: c.Now, metrics: c.Metrics, started: c.Now(), changed: make(chan struct{}, 1),
		links: map[*link]struct{}{}, early: true, quarantine: crash.NewQuarantine(0),
	}
	s = s.complete()
	p.clock.Store(p.started.UnixNano())
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

// QueueTimeout is queue.timeout as it is now.
func (p *Pool) QueueTimeout() time.Duration { return p.settings.Load().Dispatch.QueueTimeout }

// Heartbeat says how workers are asked for signs of life.
func (p *Pool) Heartbeat() bridge.Heartbeat { return p.settings.Load().Heartbeat }

// Declared is what the worker that connected last offers; nil before the first one.
func (p *Pool) Declared() *front.Declared { return p.declared.Load() }

// SetSettings follows new settings.
func (p *Pool) SetSettings(s Settings) {
	s = s.complete()
	now := p.now()
	p.mu.Lock()
	p.settings.Store(&s)
	p.quarantine.SetDuration(s.Quarantine)
	p.d.SetRecycle(s.Recycle)
	if r := s.RecycleRequest; r != nil {
		p.d.RecycleWorkers(r.ID, r.Slots, now)
	}
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

// unlock carries out what dispatch decided, and ends the critical section. Frames are queued within it, so that they keep the order of the
// decisions, and written after it.
func (p *Pool) unlock() {
	now := time.Time{}
	for actions := p.d.Actions(); len(actions) > 0; actions = p.d.Actions() {
		if now.IsZero() {
			now = p.now()
		}
		for _, a := range actions {
			p.carryOut(a, now)
		}
	}
	var one [4]*bridge.Worker
	flush := append(one[:0], p.flush...)
	recalls, keep, server, desired := p.recalls, p.keep, p.server, p.desired
	p.flush, p.recalls, p.keep, p.desired = p.flush[:0], nil, nil, false
	p.mu.Unlock()
	for _, w := range flush {
		w.Flush()
	}
	for _, c := range recalls {
		c.Recall()
	}
	if server != nil {
		for part := range slices.Chunk(keep, maxLostLives) {
			server.ToSupervisor(&bridgev1.ToSupervisor{Kind: &bridgev1.ToSupervisor_Lost{Lost: &bridgev1.LostLives{Lives: part}}})
		}
	}
	if desired {
		p.sendDesired()
		p.poke()
	}
}

func (p *Pool) carryOut(a dispatch.Action, now time.Time) {
	switch a.Kind {
	case dispatch.Run:
		a.Call.Owner.(*call).assign(a.Worker, now)
	case dispatch.Refuse:
		a.Call.Owner.(*call).refuse(a.Refusal)
	case dispatch.Close:
		w := a.Worker.Link.(*link).worker
		w.QueueClose(a.Epoch, a.Cause)
		p.toFlush(w)
	case dispatch.Desired:
		p.desired = true
	case dispatch.Recall:
		p.recalls = append(p.recalls, &a.Call.Owner.(*call).wire)
	case dispatch.Keep:
		p.keep = append(p.keep, lostLife(a.Lost))
	}
}

func (p *Pool) toFlush(w *bridge.Worker) {
	for _, known := range p.flush {
		if known == w {
			return
		}
	}
	p.flush = append(p.flush, w)
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
		BatchSize: uint32(max(s.BatchSize, 0)), BatchIntervalMs: uint64(s.BatchInterval.Milliseconds()),
		UsageIntervalMs: uint64(s.Heartbeat.Interval.Milliseconds()), MeasureMemory: s.Recycle.MaxMemory > 0,
		BackoffMs: uint64(s.Backoff.Milliseconds()), MaxBackoffMs: uint64(s.MaxBackoff.Milliseconds()),
	}}})
}
