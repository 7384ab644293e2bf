package dispatch

import (
	"time"

	"github.com/snakepit-k8s/snakepit/router/session"
)

const (
	maxRetries = 2 // of one call
	maxDeaths  = 1 // of workers that held the call
)

// The retry budget counts in tenths of a repeat: each admitted call earns one tenth, so that repeats are at most 10 % of recent calls.
const (
	repeatCosts  = 10
	budgetFloor  = 10 * repeatCosts  // what is regained without calls, in ten seconds
	budgetMost   = 100 * repeatCosts // what can be saved up
	budgetRefill = time.Second / repeatCosts
)

type budget struct {
	tenths int
	filled time.Time
}

func (b *budget) fill(now time.Time) { b.tenths, b.filled = budgetFloor, now }

func (b *budget) earn() { b.tenths = min(b.tenths+1, budgetMost) }

func (b *budget) spend(now time.Time) bool {
	if gained := now.Sub(b.filled) / budgetRefill; gained > 0 {
		if b.tenths < budgetFloor {
			b.tenths = int(min(int64(b.tenths)+int64(gained), budgetFloor))
		}
		b.filled = now
	}
	if b.tenths < repeatCosts {
		return false
	}
	b.tenths -= repeatCosts
	return true
}

// NotStarted ends a reservation whose call proved not to have run; died says that its connection ended while it held the call.
// The call is repeated, at most twice within its deadline and the budget of repeats, and not on a second worker that died holding it; else it is refused.
// What was sent ahead and never began counts for nothing.
func (d *Dispatcher) NotStarted(c *Call, died bool, now time.Time) {
	ahead := c.ahead
	w := d.unreserve(c, now)
	if c.Life != nil && !c.Life.Held() {
		c.Life.ClearOpened() // asking twice does no harm: a worker opens an epoch once
	}
	var refusal *Refusal
	if ahead {
		c.NoPrefetch = true
	} else {
		c.retries++
		if died {
			c.deaths++
		}
		if c.retries > maxRetries || c.deaths > maxDeaths || !d.budget.spend(now) {
			refusal = &Refusal{Reason: WorkerDied, Wait: minWaitHint}
		}
	}
	d.again(c, w, refusal, true, now)
}

// Retry repeats a call that may have been executed, for a caller and a tool that say that it does no harm. False: it is not repeated, for want of
// tries, budget, time or session; nothing changed, and its reservation ends with Finished.
func (d *Dispatcher) Retry(c *Call, now time.Time) bool {
	l := c.Life
	switch {
	case c.at != reserved, c.retries >= maxRetries, c.deaths >= maxDeaths, l != nil && l.Ended(), d.retired,
		d.draining && l == nil, !c.Deadline.IsZero() && !now.Before(c.Deadline), !d.budget.spend(now):
		return false
	}
	c.retries++
	c.deaths++
	d.again(c, d.unreserve(c, now), nil, false, now)
	return true
}

// again places a call whose reservation has ended, or refuses it. Restart lets a call whose hinted life was lost begin the next one.
func (d *Dispatcher) again(c *Call, w *Worker, refusal *Refusal, restart bool, now time.Time) {
	restarted := refusal == nil && restart && d.restart(c, now)
	if why := d.unrepeatable(c, now); why != nil {
		refusal = why
	}
	if refusal != nil {
		if c.Life != nil {
			d.done(c.Life, restarted, now)
		}
		d.refuse(c, *refusal)
	} else {
		if c.Life != nil && !restarted {
			d.sessions.Requeue(c.Life)
		}
		d.enqueue(c, true)
		d.place(c, now)
	}
	d.settle(w, now)
	d.serveShared(now) // calls that waited behind it for a life that has no worker now
}

// restart gives a call whose hinted life was lost under it the next life of that name.
func (d *Dispatcher) restart(c *Call, now time.Time) bool {
	old := c.Life
	if old == nil || !old.Lost() || old.Strict() || c.Token != nil || d.draining {
		return false
	}
	d.done(old, false, now)
	c.Life = d.sessions.Life(old.Name())
	if c.Life == nil {
		c.Life = d.sessions.Start(old.Name(), true)
	}
	c.State = NoSession
	d.sessions.Queue(c.Life)
	return true
}

func (d *Dispatcher) unrepeatable(c *Call, now time.Time) *Refusal {
	switch {
	case c.Life != nil && c.Life.Lost():
		return &Refusal{Reason: SessionLost, Loss: session.Loss{
			Pod: d.sessions.Pod(), Worker: c.Worker.ID, Epoch: c.Life.Epoch(), Cause: session.CauseWorkerGone}}
	case c.Life != nil && c.Life.Ended():
		return &Refusal{Reason: SessionExpired}
	case !c.Deadline.IsZero() && !now.Before(c.Deadline):
		return &Refusal{Reason: DeadlinePassed}
	case d.retired, d.draining && c.Life == nil:
		return &Refusal{Reason: Draining, Wait: time.Second}
	}
	return nil
}

// NotHeld ends a reservation that the worker refused because it does not hold the life. A life that held nothing waits for another worker;
// any other is over.
func (d *Dispatcher) NotHeld(c *Call, now time.Time) {
	if l := c.Life; l != nil && !l.Ended() && holder(l) == c.Worker {
		if l.Held() {
			d.endLife(l, Refusal{Reason: SessionExpired}, now)
		} else {
			d.unbind(l)
		}
	}
	d.NotStarted(c, false, now)
}

// StartFailed ends the life whose session_start raised, while the call that told so has its reservation. Calls that wait for it are refused.
func (d *Dispatcher) StartFailed(c *Call, now time.Time) {
	if l := c.Life; l != nil && !l.Ended() && holder(l) == c.Worker {
		d.endLife(l, Refusal{Reason: SessionExpired}, now)
	}
}

// unbind takes a life from its worker; the calls that wait for it become those of a new session.
func (d *Dispatcher) unbind(l *session.Life) {
	w := holder(l)
	d.sessions.Unbind(l, l.Held())
	w.queued -= l.Queued()
	if tag := l.Tag(); tag != 0 {
		d.show(d.lanes[tag])
	}
	d.count(w)
}

// endLife ends a life and refuses the calls that wait for it.
func (d *Dispatcher) endLife(l *session.Life, r Refusal, now time.Time) {
	for tag := l.Tag(); tag != 0 && d.lanes[tag].waiting.head != nil && d.lanes[tag].life == l; {
		c := d.lanes[tag].waiting.head
		d.dequeue(c, now)
		d.refuse(c, r)
	}
	d.end(l)
}

// end takes a life that no call waits for out of the table.
func (d *Dispatcher) end(l *session.Life) {
	w := holder(l)
	d.sessions.End(l)
	if w != nil {
		d.count(w)
	}
}

// lose ends a life without its caller's wish. A life that held nothing, and in which nothing runs, is bound again silently; a hinted one begins again where that may be told.
func (d *Dispatcher) lose(l *session.Life, cause string, now time.Time) {
	w := holder(l)
	if !l.Held() && !l.Running() {
		d.unbind(l)
		if l.Pending() == 0 {
			d.sessions.End(l)
		}
		return
	}
	d.countLoss(cause)
	strict := l.Strict()
	var left []*Call
	if tag := l.Tag(); tag != 0 {
		for x := d.lanes[tag].waiting.head; x != nil; x = x.next {
			left = append(left, x)
		}
	}
	for _, x := range left {
		d.dequeue(x, now)
	}
	loss := d.sessions.Lose(l, cause, d.lossTTL(), now)
	d.act(Action{Kind: Keep, Lost: &Lost{Name: l.Name(), Loss: loss}})
	d.count(w)
	var again *session.Life
	for _, x := range left {
		if strict || x.Token != nil || d.draining {
			d.refuse(x, Refusal{Reason: SessionLost, Loss: loss})
			continue
		}
		if again == nil {
			again = d.sessions.Start(l.Name(), true)
		}
		x.Life = again
		d.sessions.Queue(again)
		d.enqueue(x, true)
	}
}

// lossTTL is how long a loss is told by name: as long as the session might have idled, within bounds.
func (d *Dispatcher) lossTTL() time.Duration {
	return min(max(d.settings.IdleTimeout, 10*time.Minute), 24*time.Hour)
}
