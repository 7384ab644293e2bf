package upstream

import (
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/dispatch"
)

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
	// DefaultPrefetchBelow is how long the calls that are sent ahead to a worker may take together, by their average run.
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
