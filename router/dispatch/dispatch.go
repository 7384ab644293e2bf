package dispatch

import (
	"time"

	"github.com/snakepit-k8s/snakepit/router/session"
)

const (
	minSamples  = 20 // before which nothing is known about service times
	maxRetries  = 2
	minWaitHint = 20 * time.Millisecond
	maxWaitHint = 10 * time.Second
	recoverHint = 200 * time.Millisecond
)

// Dispatcher holds the queue, the workers and the sessions of one group.
type Dispatcher struct {
	settings Settings
	sessions *session.Table
	workers  map[session.Worker]*Worker
	slots    [MaxSlots]slot
	shared   queue
	actions  []Action
	queued   int
	running  int
	seq      uint64
	wanted   int
	samples  int
	average  time.Duration // of service, moving
	lost     [4]uint64     // sessions lost, by index into LossCauses

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
	return &Dispatcher{
		settings: settings, sessions: session.NewTable(pod, now), workers: map[session.Worker]*Worker{}, patient: true,
	}
}

// Actions hands out what is to be done, in order. The slice is valid until the next call of any method.
func (d *Dispatcher) Actions() []Action {
	a := d.actions
	d.actions = d.actions[:0]
	return a
}

func (d *Dispatcher) act(a Action) { d.actions = append(d.actions, a) }

func (d *Dispatcher) refuse(c *Call, r Refusal) {
	d.act(Action{Kind: Refuse, Call: c, Refusal: &r})
}

// SetSettings follows new settings.
func (d *Dispatcher) SetSettings(s Settings) { d.settings = s }

// SetSole says whether this pod is the only one of its group, and whether it may serve at all.
func (d *Dispatcher) SetSole(sole, standby bool) {
	d.sessions.SetSole(sole)
	d.standby = standby
}

// SetBlocked tells why no worker will become ready soon; empty when nothing is in the way.
func (d *Dispatcher) SetBlocked(why string, now time.Time) {
	d.blocked = why
	if why == "" || d.anyReady() {
		return
	}
	for c := d.shared.head; c != nil; {
		next := c.next
		d.dequeue(c, now)
		d.refuse(c, d.noReady())
		c = next
	}
}

// Recovered ends the wait for the supervisor's word: what has not been announced is not there.
func (d *Dispatcher) Recovered() { d.patient = false }

// Admit takes a call. It ends in Run or Refuse, now or later.
func (d *Dispatcher) Admit(c *Call, now time.Time) {
	c.arrived = now
	d.seq++
	c.seq = d.seq
	if c.Affinity < d.settings.Affinity {
		c.Affinity = d.settings.Affinity
	}
	if refusal, ok := d.enter(c, now); !ok {
		d.refuse(c, refusal)
		return
	}
	if c.Life != nil {
		if c.Affinity != Hint {
			c.Life.SetStrict()
		}
		d.sessions.Queue(c.Life)
	}
	d.enqueue(c)
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

// room applies the bounds of the queue, the fail-fast rule and the deadline.
func (d *Dispatcher) room(c *Call, now time.Time) (Refusal, bool) {
	if c.Life != nil {
		if blocker := d.inTheWay(c); blocker != nil && (c.Affinity == StrictFailFast || blocker.Stream && blocker.Life == c.Life) {
			return Refusal{Reason: WorkerBusy, Wait: d.waitHint(1), BlockedBy: blocker.RequestID}, false
		}
		if c.Life.Queued() >= d.settings.PerSession {
			return Refusal{Reason: QueueFull, Wait: d.waitHint(c.Life.Queued()), Limit: d.settings.PerSession, InSession: true}, false
		}
	}
	ready := d.readyWorkers()
	if ready == 0 && c.Life == nil && (d.wanted == 0 || d.blocked != "") && d.recovered {
		return d.noReady(), false
	}
	if d.queued >= d.settings.MaxLength {
		return Refusal{Reason: QueueFull, Wait: d.waitHint(d.queued), Limit: d.settings.MaxLength}, false
	}
	if !c.Deadline.IsZero() && d.samples >= minSamples && ready > 0 {
		wait := d.expectedWait(c, ready)
		if wait > 0 && now.Add(wait).After(c.Deadline) {
			return Refusal{Reason: DeadlineUnreachable, Wait: clampHint(wait)}, false
		}
	}
	return Refusal{}, true
}

// inTheWay is the call that a call of a bound session would wait for.
func (d *Dispatcher) inTheWay(c *Call) *Call {
	owner := c.Life.Owner()
	if owner == nil {
		if c.Life.Pending() > 0 {
			return &Call{}
		}
		return nil
	}
	w := d.workers[owner.ID]
	if w == nil {
		return nil
	}
	if w.current != nil {
		return w.current
	}
	if w.State != Ready {
		return &Call{}
	}
	return w.waiting.head
}

// expectedWait until the call would begin; 0 when a slot is free for it.
func (d *Dispatcher) expectedWait(c *Call, ready int) time.Duration {
	if c.Life != nil && c.Life.Owner() != nil {
		w := d.workers[c.Life.Owner().ID]
		ahead := w.waiting.n
		if w.current != nil {
			ahead++
		}
		return time.Duration(ahead) * d.average
	}
	for _, w := range d.workers {
		if w.State == Ready && !w.Draining && w.current == nil {
			return 0
		}
	}
	return time.Duration(d.queued/ready+1) * d.average
}

func (d *Dispatcher) waitHint(ahead int) time.Duration {
	ready := max(d.readyWorkers(), 1)
	return clampHint(time.Duration(ahead) * d.average / time.Duration(ready))
}

func clampHint(wait time.Duration) time.Duration { return min(max(wait, minWaitHint), maxWaitHint) }

func (d *Dispatcher) noReady() Refusal {
	return Refusal{Reason: NoReadyWorker, Wait: time.Second, Detail: d.blocked}
}

func (d *Dispatcher) readyWorkers() int {
	n := 0
	for _, w := range d.workers {
		if w.State == Ready && !w.Draining {
			n++
		}
	}
	return n
}

func (d *Dispatcher) anyReady() bool { return d.readyWorkers() > 0 }
