package dispatch

import (
	"time"

	"github.com/snakepit-k8s/snakepit/router/session"
)

// NotStarted ends a reservation whose call proved not to have run; died says that its connection ended while it held the call.
// The call is repeated, at most twice within its deadline, and not on a second worker that died holding it; else it is refused.
func (d *Dispatcher) NotStarted(c *Call, died bool, now time.Time) {
	w := d.unreserve(c)
	if died {
		c.deaths++
	}
	c.retries++
	if c.Life != nil && !c.Life.Held() {
		c.Life.ClearOpened() // asking twice does no harm: a worker opens an epoch once
	}
	restarted := d.restart(c, now)
	switch refusal := d.repeatable(c, now); {
	case refusal != nil:
		if c.Life != nil {
			d.sessions.Done(c.Life, restarted, now)
		}
		d.refuse(c, *refusal)
	default:
		if c.Life != nil && !restarted {
			d.sessions.Requeue(c.Life)
		}
		d.enqueue(c)
		d.place(c, now)
	}
	d.settle(w, now)
}

// restart gives a call whose hinted life was lost under it the next life of that name.
func (d *Dispatcher) restart(c *Call, now time.Time) bool {
	old := c.Life
	if old == nil || !old.Lost() || old.Strict() || c.Token != nil || d.draining || c.retries > maxRetries || c.deaths > 1 {
		return false
	}
	d.sessions.Done(old, false, now)
	c.Life = d.sessions.Life(old.Name())
	if c.Life == nil {
		c.Life = d.sessions.Start(old.Name(), true)
	}
	c.State = NoSession
	d.sessions.Queue(c.Life)
	return true
}

func (d *Dispatcher) repeatable(c *Call, now time.Time) *Refusal {
	switch {
	case c.Life != nil && c.Life.Lost():
		return &Refusal{Reason: SessionLost, Loss: session.Loss{
			Pod: d.sessions.Pod(), Worker: c.Worker.ID, Epoch: c.Life.Epoch(), Cause: session.CauseWorkerGone}}
	case c.Life != nil && c.Life.Ended():
		return &Refusal{Reason: SessionExpired}
	case c.retries > maxRetries || c.deaths > 1:
		return &Refusal{Reason: WorkerDied, Wait: minWaitHint}
	case !c.Deadline.IsZero() && !now.Before(c.Deadline):
		return &Refusal{Reason: DeadlinePassed}
	case d.draining && c.Life == nil:
		return &Refusal{Reason: Draining, Wait: time.Second}
	}
	return nil
}

// NotHeld ends a reservation that the worker refused because it does not hold the life. A life that held nothing waits for another worker;
// any other is over.
func (d *Dispatcher) NotHeld(c *Call, now time.Time) {
	l := c.Life
	if l != nil && !l.Ended() {
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
	if c.Life != nil && !c.Life.Ended() {
		d.endLife(c.Life, Refusal{Reason: SessionExpired}, now)
	}
}

// unbind takes a life from its worker; the calls that wait for it go back to the shared queue.
func (d *Dispatcher) unbind(l *session.Life) {
	w := d.workers[l.Owner().ID]
	moved := l.Held()
	d.sessions.Unbind(l, moved)
	for x := w.waiting.head; x != nil; {
		next := x.next
		if x.Life == l {
			w.waiting.remove(x)
			d.shared.insert(x)
		}
		x = next
	}
}

// endLife ends a life and refuses the calls that wait for it.
func (d *Dispatcher) endLife(l *session.Life, r Refusal, now time.Time) {
	from := &d.shared
	if o := l.Owner(); o != nil {
		from = &d.workers[o.ID].waiting
	}
	for x := from.head; x != nil; {
		next := x.next
		if x.Life == l {
			d.dequeue(x, now)
			d.refuse(x, r)
		}
		x = next
	}
	d.sessions.End(l)
}

// lose ends a life without its caller's wish. A life that held nothing, and in which nothing runs, is bound again silently; a hinted one begins again where that may be told.
func (d *Dispatcher) lose(l *session.Life, cause string, now time.Time) {
	w := d.workers[l.Owner().ID]
	if !l.Held() && !l.Running() {
		d.unbind(l)
		if l.Pending() == 0 {
			d.sessions.End(l)
		}
		return
	}
	d.countLoss(cause)
	loss := session.Loss{Pod: d.sessions.Pod(), Worker: w.ID, Epoch: l.Epoch(), Cause: cause}
	var again *session.Life
	strict := l.Strict()
	var waiting []*Call
	for x := w.waiting.head; x != nil; x = x.next {
		if x.Life == l {
			waiting = append(waiting, x)
		}
	}
	for _, x := range waiting {
		d.dequeue(x, now)
	}
	d.sessions.Lose(l, cause, d.lossTTL(), now)
	for _, x := range waiting {
		if strict || x.Token != nil || d.draining {
			d.refuse(x, Refusal{Reason: SessionLost, Loss: loss})
			continue
		}
		if again == nil {
			again = d.sessions.Start(l.Name(), true)
		}
		x.Life = again
		d.sessions.Queue(again)
		d.enqueue(x)
	}
}

// lossTTL is how long a loss is told by name: as long as the session might have idled, within bounds.
func (d *Dispatcher) lossTTL() time.Duration {
	return min(max(d.settings.IdleTimeout, 10*time.Minute), 24*time.Hour)
}

func lifeOwner(c *Call) session.Worker {
	if c.Life == nil || c.Life.Owner() == nil {
		return session.Worker{}
	}
	return c.Life.Owner().ID
}
