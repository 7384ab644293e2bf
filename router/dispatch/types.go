package dispatch

import (
	"time"

	"github.com/snakepit-k8s/snakepit/router/session"
)

// MaxSlots bounds the workers of a group.
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

// Call is one call, from Admit to its end. The upper fields are the caller's and constant; the others belong to this package and may be read
// between ActionRun and the end of the reservation.
type Call struct {
	Session   string // empty: no session
	Token     *session.Token
	RequestID string
	Owner     any
	Deadline  time.Time // zero: none
	Affinity  Affinity
	Create    bool
	Stream    bool // delivers more than one answer
	Open      bool // OpenSession: wants the life only

	Worker *Worker
	Life   *session.Life
	State  SessionState

	prev, next *Call
	in         *queue
	seq        uint64
	arrived    time.Time
	began      time.Time
	retries    uint8
	deaths     uint8
	running    bool
}

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

	owner   *session.Owner
	waiting queue
	current *Call
}

// Sessions counts the lives it holds.
func (w *Worker) Sessions() int { return w.owner.Sessions() }

// Busy says that a call is reserved or runs on it.
func (w *Worker) Busy() bool { return w.current != nil }

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
	// Run: Call has the slot of its Worker.
	Run ActionKind = iota + 1
	// Refuse: Call ends with Refusal.
	Refuse
	// Close: tell Worker that the life Epoch is over.
	Close
	// Desired: the slots that shall hold a worker changed.
	Desired
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
}
