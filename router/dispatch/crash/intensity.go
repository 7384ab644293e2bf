package crash

import "time"

// MaxRestarts bounds Limits.MaxRestarts.
const MaxRestarts = 1000

// Limits say how many deaths are borne.
type Limits struct {
	MaxRestarts int           // deaths within Window that are borne, 0 … MaxRestarts
	Window      time.Duration // 0: never looping
}

// Intensity remembers as many deaths as tell whether there were too many. Its zero value has seen none and bears any.
type Intensity struct {
	limits Limits
	deaths []time.Time // a ring of MaxRestarts + 1
	next   int
}

// SetLimits follows new limits. The deaths that are known stay, as far as the new limits need them.
func (i *Intensity) SetLimits(l Limits) {
	l.MaxRestarts = min(max(l.MaxRestarts, 0), MaxRestarts)
	if l.MaxRestarts == i.limits.MaxRestarts {
		i.limits = l
		return
	}
	known := make([]time.Time, 0, len(i.deaths))
	for k := range i.deaths {
		known = append(known, i.deaths[(i.next+k)%len(i.deaths)])
	}
	i.limits, i.deaths, i.next = l, nil, 0
	for _, at := range known[max(len(known)-l.MaxRestarts-1, 0):] {
		i.Died(at)
	}
}

// Died counts a death. Times do not decrease.
func (i *Intensity) Died(now time.Time) {
	if len(i.deaths) <= i.limits.MaxRestarts {
		i.deaths = append(i.deaths, now)
		return
	}
	i.deaths[i.next] = now
	i.next = (i.next + 1) % len(i.deaths)
}

// Looping says that more than MaxRestarts deaths lie within the window before now.
func (i *Intensity) Looping(now time.Time) bool {
	return i.limits.Window > 0 && len(i.deaths) > i.limits.MaxRestarts && now.Sub(i.deaths[i.next]) < i.limits.Window
}
