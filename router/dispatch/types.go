package dispatch

import (
	"time"

	"github.com/snakepit-k8s/snakepit/router/dispatch/crash"
	"github.com/snakepit-k8s/snakepit/router/dispatch/fair"
	"github.com/snakepit-k8s/snakepit/router/session"
)

// MaxSlots bounds the workers of a group, and the calls that run in one of them at a time.
const MaxSlots = 256

// Affinity of a call, from loose to strict.
type Affinity uint8

// Affinities; the zero value means the pool's.
const (
	AffinityPool Affinity = iota
	Hint
	StrictQueue
	StrictFailFast
)

// Settings are followed while the router runs.
type Settings struct {
	Affinity     Affinity
	Implicit     bool // any call that names a session may create it
	MaxPerWorker int
	IdleTimeout  time.Duration
	MaxLength    int
	PerSession   int
	QueueTimeout time.Duration
	DrainTimeout time.Duration
	// PrefetchBelow is how long the calls of a busy worker that another is sent behind may run together, by the averages of their tools; 0 for never.
	PrefetchBelow time.Duration
	// Shares weigh the tenants, 1 to 1000; a tenant that is not listed has 1.
	Shares map[string]int
	// Crash says how many deaths of workers are a crash loop.
	Crash crash.Limits
}

// SessionState is told to the caller with each answer of a session.
type SessionState uint8

// States of a session in an answer; NoSession for a call without one.
const (
	NoSession SessionState = iota
	StateNew
	StateBound
	StateRebound
)

// String is the word that callers see.
func (s SessionState) String() string {
	return [...]string{"", "new", "bound", "rebound"}[s]
}

// Call is one call, from Admit to its end. The first fields are the caller's; the second are this package's and may be read
// between Run and the end of the reservation.
type Call struct {
	Session   string // empty: no session
	Token     *session.Token
	RequestID string
	Owner     any
	Deadline  time.Time // zero: none
	Affinity  Affinity
	Create    bool
	Stream    bool   // delivers more than one answer
	Open      bool   // OpenSession: wants the life only
	Tenant    string // empty: the common one
	// NoPrefetch keeps the call from being sent to a busy worker: its request is not one frame. It may be set before Recalled too.
	NoPrefetch bool

	Worker *Worker
	Life   *session.Life
	State  SessionState
	// Prefetched: every slot of the worker is taken, and the call has the next one.
	Prefetched bool
	// Began is when the slot became the call's own, or when it was accepted; zero while it is prefetched and not accepted.
	Began time.Time

	item       fair.Item
	prev, next *Call // in the calls list that at names
	tenant     *fair.Tenant
	target     string    // tool or method; empty while that is not known
	pace       *average  // of the target; nil while nothing is known of it
	taken      time.Time // when the slot became its own
	refusal    Refusal
	at         at
	retries    uint8
	deaths     uint8
	ahead      bool // was sent while the slot was another's, and is not accepted
	accepted   bool
	recalled   bool // Recall was asked for, and its outcome is not known
}

// at says where a call is.
type at uint8

const (
	nowhere at = iota
	waiting
	reserved // runs, or is sent ahead
)

// WorkerState of one incarnation.
type WorkerState uint8

// States of a worker.
const (
	Starting WorkerState = iota
	Ready
	Suspect
	Gone
)

// Worker is one incarnation.
type Worker struct {
	ID       session.Worker
	Link     any // the caller's connection
	State    WorkerState
	Draining bool
	EndsAt   time.Time // of a draining worker: when its sessions are lost
	Slots    int       // calls that it may run at a time; 0 before Up

	owner     *session.Owner
	own       fair.Queue // the first calls of its lives that may run now
	active    calls      // that run
	following []*Call    // that were sent ahead, in the order of their frames; MaxAhead at most
	queued    int        // calls of its lives that wait
	prefetch  bool       // it may be sent a call ahead
	passed    int        // calls of its own that ran while a new session waited

	open, hosting          bool // as counted
	slots, free            int  // as counted
	long                   bool // the call that runs is no short one
	hostBefore, hostBehind *Worker

	usage usage
}

// Sessions counts the lives it holds.
func (w *Worker) Sessions() int { return w.owner.Sessions() }

// Running counts the calls that have a slot of it, one that was sent ahead not included.
func (w *Worker) Running() int { return w.active.n }

// Reason of a refusal.
type Reason uint8

// Reasons; what callers are told is up to the front.
const (
	QueueFull Reason = iota + 1
	QueueTimeout
	DeadlinePassed
	DeadlineUnreachable
	NoReadyWorker
	WorkerBusy
	Draining
	SessionLost
	SessionExpired
	SessionUnknown
	Recovering
	WorkerDied // not started
)

// Refusal says why a call is not served.
type Refusal struct {
	Reason    Reason
	Wait      time.Duration // after which a repeat may succeed; 0 where it would not
	Loss      session.Loss  // SessionLost
	BlockedBy string        // WorkerBusy: request id of the call in the way
	Detail    string        // NoReadyWorker: what stands in the way
	Limit     int           // QueueFull
	InSession bool          // QueueFull: the bound of one session
}

// ActionKind says what an action asks for.
type ActionKind uint8

// Kinds of actions.
const (
	// Run: Call has a slot of its Worker, or (Call.Prefetched) the next one.
	Run ActionKind = iota + 1
	// Refuse: Call ends with Refusal.
	Refuse
	// Close: tell Worker that the life Epoch is over.
	Close
	// Desired: the slots that shall hold a worker changed.
	Desired
	// Recall: ask Worker to give the prefetched Call back. Recalled follows, or the call's normal course.
	Recall
	// Keep: have the supervisor keep Lost, for a router that starts again.
	Keep
)

// Causes of Close, as numbered by the bridge.
const (
	CloseByCaller uint16 = 1
	CloseIdle     uint16 = 2
	CloseMoved    uint16 = 3
	CloseDrain    uint16 = 4
)

// Action is one thing to carry out, in order.
type Action struct {
	Kind    ActionKind
	Cause   uint16
	Call    *Call
	Worker  *Worker
	Epoch   uint64
	Refusal *Refusal
	Lost    *Lost
}

// Lost is a life that ended without its caller's wish.
type Lost struct {
	Name       string
	Loss       session.Loss
	BegunAgain bool          // the name has lived since
	Age        time.Duration // since the loss
}

// calls is an intrusive list; a call is in one at most.
type calls struct {
	head, tail *Call
	n          int
}

func (q *calls) push(c *Call) { q.insert(c, q.tail) }

// insert puts the call after another one, or first.
func (q *calls) insert(c, after *Call) {
	c.prev = after
	if after == nil {
		c.next, q.head = q.head, c
	} else {
		c.next, after.next = after.next, c
	}
	if c.next == nil {
		q.tail = c
	} else {
		c.next.prev = c
	}
	q.n++
}

func (q *calls) remove(c *Call) {
	if c.prev == nil {
		q.head = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		q.tail = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
	q.n--
}
