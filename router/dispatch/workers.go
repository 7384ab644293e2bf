package dispatch

import (
	"time"

	"github.com/snakepit-k8s/snakepit/router/session"
)

// Held is a life that a worker was found to hold.
type Held struct {
	Name  string
	Epoch uint64
}

// LossCauses lists the causes by which losses are counted; any other counts as the first.
var LossCauses = [4]string{session.CauseWorkerGone, session.CauseScaledDown, session.CauseDrained, session.CausePodReplaced}

func (d *Dispatcher) countLoss(cause string) {
	for i, c := range LossCauses {
		if c == cause {
			d.lost[i]++
			return
		}
	}
	d.lost[0]++
}

// Started makes an incarnation known; it takes no calls before Up.
func (d *Dispatcher) Started(id session.Worker, link any) *Worker {
	if w := d.workers[id]; w != nil {
		return w
	}
	w := &Worker{ID: id, Link: link, owner: d.sessions.AddOwner(id)}
	d.workers[id] = w
	if s := &d.slots[id.Slot]; s.victim || d.recovered && !s.wanted {
		w.Draining, w.EndsAt = true, s.endsAt
	}
	return w
}

// Up says that the worker is connected and takes calls.
func (d *Dispatcher) Up(w *Worker, now time.Time) {
	if w.State == Gone {
		return
	}
	w.State = Ready
	for w.current == nil {
		before := d.running
		d.pull(w, now)
		if d.running == before {
			break
		}
	}
	d.release(w, now)
}

// Down says that a connection of the worker broke. It is suspect: its sessions wait. Its call ends with Finished or NotStarted, as for any other.
func (d *Dispatcher) Down(w *Worker) {
	if w.State == Ready {
		w.State = Suspect
	}
}

// Gone says that the worker's end is proven. Its sessions are lost, with the cause told to their callers.
func (d *Dispatcher) Gone(w *Worker, cause string, now time.Time) {
	if w.State == Gone {
		return
	}
	w.State = Gone
	s := &d.slots[w.ID.Slot]
	if s.victim || !s.wanted {
		cause = s.lossCause(cause)
	}
	d.sessions.Lives(w.owner, func(l *session.Life) { d.lose(l, cause, now) })
	d.sessions.RemoveOwner(w.owner)
	delete(d.workers, w.ID)
	if s.victim {
		d.releaseSlot(s)
	}
	d.rescale(now)
	d.serveShared(now)
}

// Hold enters lives that a worker was found to hold, as told by the supervisor.
func (d *Dispatcher) Hold(w *Worker, lives []Held, now time.Time) {
	for _, h := range lives {
		adopted, loser, epoch := d.sessions.Adopt(h.Name, w.owner, h.Epoch, now)
		if loser != nil {
			if other := d.workers[loser.ID]; other != nil {
				d.act(Action{Kind: Close, Worker: other, Epoch: epoch, Cause: CloseMoved})
			}
		}
		if adopted != nil && d.settings.Affinity != Hint {
			adopted.SetStrict()
		}
	}
}

// Dropped says that the worker closed a life by itself. Nothing happens when it is not the life that the table knows.
func (d *Dispatcher) Dropped(w *Worker, h Held, now time.Time) {
	l := d.sessions.Life(h.Name)
	if l == nil || l.Owner() != w.owner || l.Epoch() != h.Epoch || l.Running() {
		return
	}
	d.endLife(l, Refusal{Reason: SessionExpired}, now)
	d.settle(w, now)
}

// FloorRefused says that a worker had seen a higher epoch for a name; later epochs must be greater still.
func (d *Dispatcher) FloorRefused(epoch uint64) {
	d.sessions.Raise(epoch + uint64(time.Hour/time.Microsecond))
}

// Supervised says that the supervisor told what there is. The first time, slots that hold a worker are kept in preference to others.
func (d *Dispatcher) Supervised(now time.Time) {
	first := !d.recovered
	d.recovered, d.patient = true, false
	if first {
		for _, w := range d.workers {
			d.slots[w.ID.Slot].wanted = true
			if d.draining {
				d.mark(int(w.ID.Slot), session.CauseDrained, d.drainEnd, now)
			}
		}
	}
	d.rescale(now)
	d.act(Action{Kind: Desired})
	d.serveShared(now)
}

// serveShared gives the free slots of all workers to what waits.
func (d *Dispatcher) serveShared(now time.Time) {
	for c := d.shared.head; c != nil; {
		next := c.next
		if w := d.choose(c); w != nil {
			d.pull(w, now)
			next = d.shared.head
			if c.in != nil { // another call was earlier for that worker
				next = c.next
			}
		}
		c = next
	}
}
