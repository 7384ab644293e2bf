// Package fence keeps a leader whose lease has run out from writing.
//
// A process that was stopped for a while, or whose machine was, wakes up in the belief that it leads and with an old picture of the cluster;
// its library notices only when the next renewal fails. Until then the fence holds its writes back, by the machine's own clocks. What it had
// sent before is harmless by preconditions and deterministic names; the fence elects nobody.
package fence

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"

	"github.com/snakepit-k8s/snakepit/controllers/seeded"
)

// ErrExpired says that a write was held back.
var ErrExpired = errors.New("the lease of this operator has run out: it writes nothing until it leads again")

// Fence knows when this process's lease runs out. It is safe for concurrent use.
type Fence struct {
	duration time.Duration
	clock    clock.PassiveClock
	renewed  atomic.Pointer[time.Time] // when the lease was asked for that was got last; nil before the first
}

// New returns a fence that is shut; duration is the lease's.
func New(duration time.Duration, c clock.PassiveClock) *Fence {
	return &Fence{duration: duration, clock: c}
}

// Wrap is for rest.Config.Wrap: it learns of the lease from the requests that renew it, and stops what an expired leader writes with ErrExpired.
func (f *Fence) Wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		switch {
		case r.Method == http.MethodGet || asks(r.URL.Path):
			return next.RoundTrip(r)
		case strings.HasPrefix(r.URL.Path, "/apis/coordination.k8s.io/"):
			// Counted from before it is sent: others wait from when they see it, which is later.
			asked := f.clock.Now()
			response, err := next.RoundTrip(r)
			if err == nil && response.StatusCode < http.StatusMultipleChoices {
				f.renewed.Store(&asked)
			}
			return response, err
		}
		if f.expired() && !seeded.NoFence {
			return nil, ErrExpired
		}
		return next.RoundTrip(r)
	})
}

// expired says whether the lease has run out by either of the machine's clocks: the monotonic one, for which a machine's sleep is no time, or that of
// the day, which may be set back. One that is set ahead shuts the fence until the next renewal.
func (f *Fence) expired() bool {
	renewed := f.renewed.Load()
	return renewed == nil || f.clock.Since(*renewed) >= f.duration || f.clock.Now().Round(0).Sub(renewed.Round(0)) >= f.duration
}

// asks says whether a request only asks who somebody is and what he may: whoever does not lead has its metrics read, too.
func asks(path string) bool {
	return strings.HasPrefix(path, "/apis/authentication.k8s.io/") || strings.HasPrefix(path, "/apis/authorization.k8s.io/")
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (r roundTripper) RoundTrip(q *http.Request) (*http.Response, error) { return r(q) }
