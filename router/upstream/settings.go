package upstream

import (
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/dispatch"
)

// Settings are followed while the router runs.
type Settings struct {
	Dispatch       dispatch.Settings
	CallTimeout    time.Duration
	KillAfter      time.Duration
	StartupTimeout time.Duration
	StopGrace      time.Duration
	MaxMessage     int
	Wanted         int
	StartMethod    bridgev1.StartMethod
	// Sole: this pod is proven to be the only one of its group. Standby: another pod is, so this one refuses every call.
	Sole    bool
	Standby bool
	// DrainBy is when a requested drain ends; zero for none. It is never taken back.
	DrainBy time.Time

	// StreamTimeout bounds a call that delivers more than one answer, StreamIdleTimeout the time without a message in either direction;
	// 0 for no bound.
	StreamTimeout     time.Duration
	StreamIdleTimeout time.Duration
	// PrefetchBelow is the average run of a call below which a worker is sent one more; 0 for never.
	PrefetchBelow time.Duration
	// Shares are the weights (1 to 1000) of tenants in the queue; a tenant that is not listed has 1.
	Shares map[string]int
	// BatchSize bounds the workers that start at a time; BatchInterval passes before the next batch.
	BatchSize     int
	BatchInterval time.Duration
	// Backoff is the pause before the second replacement of a slot in a row; it doubles up to MaxBackoff.
	Backoff    time.Duration
	MaxBackoff time.Duration
	Heartbeat  Heartbeat
	Crash      Crash
	Recycle    Recycle
	// RecycleRequest is nil when none is to be carried out.
	RecycleRequest *RecycleRequest
}

// Heartbeat says when a silent worker is looked at: after Timeout without any byte and Missed unanswered Pings, one every Interval.
type Heartbeat struct {
	Interval time.Duration
	Timeout  time.Duration
	Missed   int
}

// Crash says what follows from the death of workers.
type Crash struct {
	// MaxRestarts within Window; more are a crash loop.
	MaxRestarts int
	Window      time.Duration
	// Quarantine is how long a request that killed two workers is refused; 0 for not at all.
	Quarantine time.Duration
	// ExposeMessages allows what exceptions said, which may be data of users, in status and Events.
	ExposeMessages bool
}

// Recycle says when a worker is replaced by a fresh process; a limit of 0 is none.
type Recycle struct {
	MaxAge      time.Duration
	MaxRequests uint64
	// MaxMemory bounds the memory that only this worker has, in bytes.
	MaxMemory uint64
	// Jitter is the fraction, 0 to 0.5, by which the limits of each worker are lowered or raised at random.
	Jitter float64
	// Deadline is the time that sessions of the old worker have.
	Deadline time.Duration
}

// RecycleRequest asks for fresh processes once; a request with the ID of the one before is the same request.
type RecycleRequest struct {
	ID string
	// Slots to recycle; all when empty.
	Slots []uint32
}
