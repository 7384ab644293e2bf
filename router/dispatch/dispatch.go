package dispatch

import (
	"time"

	"github.com/snakepit-k8s/snakepit/router/dispatch/crash"
	"github.com/snakepit-k8s/snakepit/router/dispatch/fair"
	"github.com/snakepit-k8s/snakepit/router/dispatch/least"
	"github.com/snakepit-k8s/snakepit/router/seeded"
	"github.com/snakepit-k8s/snakepit/router/session"
)

const (
	minSamples  = 20 // before which nothing is known about service times
	minWaitHint = 20 * time.Millisecond
	maxWaitHint = 10 * time.Second
	recoverHint = 200 * time.Millisecond
	// A call that has its slot for so many times the average is one that nobody waits for: its slot does not count.
	muchLonger = 8
	// lookEvery is how old the count of such slots may be.
	lookEvery = 50 * time.Millisecond
)

// Dispatcher holds the queue, the workers and the sessions of one group.
type Dispatcher struct {
	settings Settings
	sessions *session.Table
	tenants  *fair.Tenants
	anyone   fair.Queue // calls without a session
	fresh    fair.Queue // the first calls of lives that have no worker
	lanes    []*lane    // by the tag of their life; 0 is none
	spare    []uint32   // tags of lanes without a life
	actions  [2][]Action
	seq      uint64
	queued   int
	reserved int
	paces    map[string]*average // from Accepted, by tool or method
	held     average             // from the slot

	workers    map[session.Worker]*Worker
	order      []*Worker         // the same by slot and nonce, so that equal events have equal outcomes
	bySlot     [MaxSlots]*Worker // that was ready last
	slots      [MaxSlots]slot
	bySessions *least.Tree // free workers, those with the fewest sessions first
	byCalls    *least.Tree // free workers, those with the fewest calls first
	ready      int         // workers that take new sessions
	capacity   int         // slots of those
	free       int         // free slots of those
	blocking   int         // slots of those that a call of muchLonger holds, counted at lookedAt
	lookedAt   time.Time
	hosts      hosts // workers that may be sent a call ahead
	ahead      calls // sent ahead, and may be recalled
	recalls    int   // asked for, outcome not known
	budget     budget
	wanted     int
	recycling  recycling
	crashes    crash.Intensity
	looping    bool                    // too many deaths
	lost       [len(LossCauses)]uint64 // sessions lost

	recovered bool // a supervisor said what there is
	patient   bool // sessions wait for recovery
	standby   bool // another pod is the only one that may serve
	retired   bool // this router ends
	draining  bool
	drainEnd  time.Time
	blocked   string // why no worker will be ready soon
}

// New makes a dispatcher without workers. Calls that name a session are refused with Recovering until Supervised or Recovered.
func New(pod string, settings Settings, now time.Time) *Dispatcher {
	d := &Dispatcher{
		sessions: session.NewTable(pod, now), tenants: fair.NewTenants(), lanes: make([]*lane, 1), paces: map[string]*average{},
		workers: map[session.Worker]*Worker{}, bySessions: least.New(), byCalls: least.New(), patient: true,
	}
	d.budget.fill(now)
	d.SetSettings(settings)
	return d
}

// Actions hands out what is to be done, in order. The slice is valid until the call after the next one of Actions; carrying out an action
// may call any other method, which adds to the next slice.
func (d *Dispatcher) Actions() []Action {
	a, used := d.actions[0], d.actions[1]
	clear(used) // so that it keeps no call alive
	d.actions[0], d.actions[1] = used[:0], a
	return a
}

func (d *Dispatcher) act(a Action) { d.actions[0] = append(d.actions[0], a) }

func (d *Dispatcher) refuse(c *Call, r Refusal) {
	c.refusal = r
	d.act(Action{Kind: Refuse, Call: c, Refusal: &c.refusal})
}

// SetSettings follows new settings.
func (d *Dispatcher) SetSettings(s Settings) {
	s.PerSession = min(s.PerSession, session.MaxPending-MaxSlots) // and what runs or is repeated
	d.settings = s
	d.tenants.SetShares(s.Shares)
	d.crashes.SetLimits(s.Crash)
}

// SetSole says whether this pod is the only one of its group, and whether it may serve at all.
func (d *Dispatcher) SetSole(sole, standby bool) {
	d.sessions.SetSole(sole)
	d.standby = standby
}

// SetBlocked tells why no worker will become ready soon; empty when nothing is in the way.
func (d *Dispatcher) SetBlocked(why string, now time.Time) {
	d.blocked = why
	if why != "" && d.ready == 0 {
		d.refuseShared(d.noReady(), now)
	}
}

// Recovered ends the wait for the supervisor's word: what has not been announced is not there.
func (d *Dispatcher) Recovered() { d.patient = false }

// Admit takes a call. It ends in Run or Refuse, now or later.
func (d *Dispatcher) Admit(c *Call, now time.Time) {
	d.seq++
	c.item.Seq, c.item.Value = d.seq, c
	c.tenant = d.tenants.Tenant(c.Tenant)
	if c.Affinity < d.settings.Affinity {
		c.Affinity = d.settings.Affinity
	}
	if refusal, ok := d.enter(c, now); !ok {
		d.refuse(c, refusal)
		return
	}
	d.budget.earn()
	if c.Life != nil {
		if c.Affinity != Hint {
			c.Life.SetStrict()
		}
		d.sessions.Queue(c.Life)
	}
	d.enqueue(c, false)
	d.place(c, now)
}

// enter decides everything that can be known before the call waits, and finds its life.
func (d *Dispatcher) enter(c *Call, now time.Time) (Refusal, bool) {
	if d.standby || d.retired {
		return Refusal{Reason: Draining, Wait: time.Second}, false
	}
	if c.Session == "" {
		if d.draining {
			return Refusal{Reason: Draining, Wait: time.Second}, false
		}
		return d.room(c, now)
	}
	if d.patient {
		return Refusal{Reason: Recovering, Wait: recoverHint}, false
	}
	verdict, life, loss := d.sessions.Resolve(d.question(c), now)
	if seeded.DoubleBind && verdict == session.Join && life.Owner() == nil { // absent when it was checked
		verdict, life = session.Start, nil
	}
	switch verdict {
	case session.Join:
		c.Life = life
	case session.Start, session.StartAgain:
		if d.draining {
			return Refusal{Reason: Draining, Wait: time.Second}, false
		}
	default:
		return verdictRefusal(verdict, loss), false
	}
	if refusal, ok := d.room(c, now); !ok {
		c.Life = nil
		return refusal, false
	}
	if c.Life == nil {
		c.Life = d.sessions.Start(c.Session, verdict == session.StartAgain)
	}
	return Refusal{}, true
}

func (d *Dispatcher) question(c *Call) session.Question {
	return session.Question{
		Name: c.Session, Token: c.Token, Create: c.Create,
		Implicit: d.settings.Implicit, Movable: c.Affinity == Hint,
	}
}

func verdictRefusal(v session.Verdict, loss session.Loss) Refusal {
	switch v {
	case session.Lost:
		return Refusal{Reason: SessionLost, Loss: loss}
	case session.Expired:
		return Refusal{Reason: SessionExpired}
	case session.Recovering:
		return Refusal{Reason: Recovering, Wait: recoverHint}
	}
	return Refusal{Reason: SessionUnknown}
}

// room applies the fail-fast rule, the bounds of the queue and the deadline, the cheapest first. A call that runs at once needs no room.
func (d *Dispatcher) room(c *Call, now time.Time) (Refusal, bool) {
	if c.Life != nil {
		if by, busy := d.inTheWay(c.Life); busy && (c.Affinity == StrictFailFast || by != nil && by.Stream && by.Life == c.Life) {
			r := Refusal{Reason: WorkerBusy, Wait: d.waitHint(1)}
			if by != nil {
				r.BlockedBy = by.RequestID
			}
			return r, false
		}
		if c.Life.Queued() >= d.settings.PerSession {
			return Refusal{Reason: QueueFull, Wait: d.waitHint(c.Life.Queued()), Limit: d.settings.PerSession, InSession: true}, false
		}
	}
	if d.ready == 0 && c.Life == nil && (d.wanted == 0 || d.blocked != "") && d.recovered {
		return d.noReady(), false
	}
	if d.runsAtOnce(c) {
		return Refusal{}, true
	}
	if !c.Deadline.IsZero() && d.held.samples >= minSamples && d.capacity > 0 {
		if wait := d.expectedWait(c, now); now.Add(wait + wait/4 + d.held.mean).After(c.Deadline) {
			return Refusal{Reason: DeadlineUnreachable, Wait: clampHint(wait)}, false
		}
	}
	if d.queued >= d.settings.MaxLength {
		newest := d.tenants.Evict(c.tenant, d.settings.MaxLength)
		if newest == nil && c.Life != nil && holder(c.Life) != nil { // a new session gives way to a bound one
			newest = d.fresh.Last(c.tenant)
		}
		if newest == nil {
			return Refusal{Reason: QueueFull, Wait: d.waitHint(d.queued), Limit: d.settings.MaxLength}, false
		}
		evicted := newest.Value.(*Call)
		d.dequeue(evicted, now)
		d.refuse(evicted, Refusal{Reason: QueueFull, Wait: d.waitHint(d.queued), Limit: d.settings.MaxLength})
		if l := c.Life; l != nil && l.Ended() { // it was the life's only call
			c.Life = d.sessions.Start(l.Name(), l.Again())
		}
	}
	return Refusal{}, true
}

// inTheWay says whether a call of the life would wait, and for which call where that is known.
func (d *Dispatcher) inTheWay(l *session.Life) (by *Call, busy bool) {
	w := holder(l)
	if w == nil {
		return nil, l.Pending() > 0
	}
	if n := d.lanes[l.Tag()]; n != nil && l.Pending() > 0 {
		if n.running != nil {
			return n.running, true
		}
		return n.waiting.head, true
	}
	if w.active.n >= w.Slots && w.active.n > 0 {
		return w.active.head, true
	}
	return nil, w.State != Ready
}

// runsAtOnce says that a worker is free for the call.
func (d *Dispatcher) runsAtOnce(c *Call) bool {
	if l := c.Life; l != nil {
		if w := holder(l); w != nil {
			return l.Pending() == 0 && w.State == Ready && w.active.n < w.Slots
		}
		return false
	}
	return d.choose(c.Session != "") != nil
}

// expectedWait until a call that does not run at once would begin.
func (d *Dispatcher) expectedWait(c *Call, now time.Time) time.Duration {
	if c.Life != nil {
		if w := holder(c.Life); w != nil {
			ahead := (d.tenants.Ahead(c.tenant, w.queued) + w.active.n) / max(w.Slots, 1)
			return time.Duration(max(ahead, c.Life.Pending())) * d.held.mean
		}
	}
	return time.Duration(d.tenants.Ahead(c.tenant, d.queued)+1) * d.held.mean / time.Duration(d.turning(now))
}

// turning counts the slots through which calls of the usual length go, 1 at least. Those that a much longer call holds serve nobody until it ends.
func (d *Dispatcher) turning(now time.Time) int {
	if now.Sub(d.lookedAt) >= lookEvery {
		d.lookedAt, d.blocking = now, 0
		for _, w := range d.order {
			if !w.open {
				continue
			}
			for c := w.active.head; c != nil; c = c.next {
				if now.Sub(c.taken) > muchLonger*d.held.mean {
					d.blocking++
				}
			}
		}
	}
	return max(d.capacity-d.blocking, 1)
}

func (d *Dispatcher) waitHint(ahead int) time.Duration {
	return clampHint(time.Duration(ahead) * d.held.mean / time.Duration(max(d.capacity, 1)))
}

func clampHint(wait time.Duration) time.Duration { return min(max(wait, minWaitHint), maxWaitHint) }

func (d *Dispatcher) noReady() Refusal {
	return Refusal{Reason: NoReadyWorker, Wait: time.Second, Detail: d.blocked}
}

// average moves with about the last 16 samples.
type average struct {
	samples int
	mean    time.Duration
}

func (a *average) add(took time.Duration) {
	a.samples++
	if a.samples == 1 {
		a.mean = took
		return
	}
	a.mean += (took - a.mean) / 16
}

// addUsual adds a sample of which no more than muchLonger counts, once something is known: one call of a minute among those of milliseconds would else
// have all of them refused that have a deadline.
func (a *average) addUsual(took time.Duration) {
	if a.samples >= minSamples {
		took = min(took, max(muchLonger*a.mean, time.Millisecond))
	}
	a.add(took)
}
