package dispatch

import (
	"time"

	"github.com/snakepit-k8s/snakepit/router/session"
)

// View describes one life for its caller.
type View struct {
	Life   *session.Life
	Worker *Worker // nil while it waits for one
	Token  session.Token
}

// Look says what is known of the session that the call names, without touching its idle time and without creating it.
func (d *Dispatcher) Look(c *Call, now time.Time) (View, *Refusal) {
	if d.patient {
		return View{}, &Refusal{Reason: Recovering, Wait: recoverHint}
	}
	verdict, life, loss := d.sessions.Resolve(session.Question{Name: c.Session, Token: c.Token}, now)
	if verdict != session.Join {
		r := verdictRefusal(verdict, loss)
		return View{}, &r
	}
	return d.view(life), nil
}

// Joinable is the session that the call names, when its life is open already: nothing needs to run to join it.
func (d *Dispatcher) Joinable(c *Call, now time.Time) (View, bool) {
	life := d.sessions.Life(c.Session)
	if d.patient || life == nil || life.Owner() == nil || !life.Opened() || !life.Held() {
		return View{}, false
	}
	verdict, _, _ := d.sessions.Resolve(session.Question{Name: c.Session, Token: c.Token, Create: true}, now)
	return d.view(life), verdict == session.Join
}

func (d *Dispatcher) view(l *session.Life) View {
	v := View{Life: l}
	if o := l.Owner(); o != nil {
		v.Worker, v.Token = o.Holder.(*Worker), d.sessions.Token(l)
	}
	return v
}

// Token names the life of a call that has a reservation.
func (d *Dispatcher) Token(c *Call) session.Token {
	if c.Life == nil || c.Life.Owner() == nil {
		return session.Token{}
	}
	return d.sessions.Token(c.Life)
}

// Close ends the session that the call names. It reports false when no such life is there, and refuses only while that cannot be known.
func (d *Dispatcher) Close(c *Call, now time.Time) (bool, *Refusal) {
	view, refusal := d.Look(c, now)
	if refusal != nil {
		if refusal.Reason == Recovering {
			return false, refusal
		}
		return false, nil
	}
	l, w := view.Life, view.Worker
	if w != nil && l.Opened() {
		d.act(Action{Kind: Close, Worker: w, Epoch: l.Epoch(), Cause: CloseByCaller})
	}
	d.endLife(l, Refusal{Reason: SessionExpired}, now)
	if w != nil {
		d.settle(w, now)
	}
	return true, nil
}

// Facts are figures for status and metrics.
type Facts struct {
	Wanted, Ready, Busy, Queued, Sessions int
	Running                               int // calls that have a worker, those sent ahead included
	Slots                                 int // of the ready workers
	Draining, Drained, Recovered          bool
	CrashLooping                          bool
	Recycling                             bool                    // a worker is being replaced
	RecycleRequest                        string                  // the latest one
	RecycleLeft                           int                     // workers that it still asks for
	Lost                                  [len(LossCauses)]uint64 // by LossCauses
}

// Facts reads the figures.
func (d *Dispatcher) Facts() Facts {
	f := Facts{
		Wanted: d.wanted, Ready: d.ready, Queued: d.queued, Running: d.reserved, Slots: d.capacity, Sessions: d.sessions.Sessions(),
		Draining: d.draining, Drained: d.Drained(), Recovered: d.recovered, Lost: d.lost, CrashLooping: d.looping,
		Recycling: d.recycling.old != nil, RecycleRequest: d.recycling.request,
	}
	for _, w := range d.order {
		if w.active.n > 0 {
			f.Busy++
		}
		if w.usage.asked {
			f.RecycleLeft++
		}
	}
	return f
}

// Ready counts the workers that take new sessions.
func (d *Dispatcher) Ready() int { return d.ready }

// Workers calls f for every incarnation, by slot.
func (d *Dispatcher) Workers(f func(*Worker)) {
	for _, w := range d.order {
		f(w)
	}
}

// Worker of that incarnation, or nil.
func (d *Dispatcher) Worker(id session.Worker) *Worker { return d.workers[id] }

// Slot says whether the slot shall hold a worker, and whether it is draining.
func (d *Dispatcher) Slot(i int) (wanted, victim bool) { return d.slots[i].wanted, d.slots[i].victim }
