package dispatch

import (
	"cmp"
	"slices"
	"time"

	"github.com/snakepit-k8s/snakepit/router/dispatch/least"
	"github.com/snakepit-k8s/snakepit/router/seeded"
	"github.com/snakepit-k8s/snakepit/router/session"
)

// Held is a life that a worker was found to hold.
type Held struct {
	Name  string
	Epoch uint64
}

// LossCauses lists the causes by which losses are counted; any other counts as the first.
var LossCauses = [5]string{
	session.CauseWorkerGone, session.CauseScaledDown, session.CauseDrained, session.CausePodReplaced, session.CauseRecycled,
}

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
	w.owner.Holder = w
	d.workers[id] = w
	at, _ := slices.BinarySearchFunc(d.order, w, bySlot)
	d.order = slices.Insert(d.order, at, w)
	if s := &d.slots[id.Slot]; s.victim || d.recovered && !s.wanted {
		w.Draining, w.EndsAt = true, s.endsAt
	}
	return w
}

func bySlot(a, b *Worker) int {
	return cmp.Or(cmp.Compare(a.ID.Slot, b.ID.Slot), cmp.Compare(a.ID.Nonce, b.ID.Nonce))
}

// Up says that the worker is connected and takes calls: slots at a time, 0 counting as 1 and MaxSlots at most. Prefetch: one with a single slot may be
// sent a call ahead. Another worker of the same slot number is suspect from then on.
func (d *Dispatcher) Up(w *Worker, slots int, prefetch bool, now time.Time) {
	if w.State == Gone {
		return
	}
	if other := d.bySlot[w.ID.Slot]; other != nil && other != w {
		d.Down(other)
	}
	d.bySlot[w.ID.Slot] = w
	w.State = Ready
	w.Slots = min(max(slots, 1), MaxSlots)
	w.prefetch = prefetch && w.Slots == 1
	if w.usage.since.IsZero() {
		w.usage.since = now
	}
	d.count(w)
	d.settle(w, now)
	d.replace(now)
}

// Down says that a connection of the worker broke. It is suspect: its sessions wait. Its calls end with Finished or NotStarted, as any other.
func (d *Dispatcher) Down(w *Worker) {
	if w.State == Ready {
		w.State = Suspect
		d.count(w)
	}
}

// count keeps the figures and the order of free workers true; it is called after every change of a worker.
func (d *Dispatcher) count(w *Worker) {
	here := d.bySlot[w.ID.Slot] == w
	open := here && w.State == Ready && !w.Draining
	free, slots := 0, 0
	if open {
		slots, free = w.Slots, max(w.Slots-w.active.n, 0)
	}
	if open != w.open {
		w.open = open
		if open {
			d.ready++
		} else {
			d.ready--
		}
	}
	d.capacity += slots - w.slots
	d.free += free - w.free
	w.slots, w.free = slots, free
	if here {
		bySessions, byCalls := least.Absent, least.Absent
		if free > 0 {
			sessions, running, slot := uint64(w.Sessions()), uint64(w.active.n), uint64(w.ID.Slot)
			bySessions = sessions<<17 | running<<8 | slot
			byCalls = running<<40 | sessions<<8 | slot
		}
		d.bySessions.Set(int(w.ID.Slot), bySessions)
		d.byCalls.Set(int(w.ID.Slot), byCalls)
	}
	if host := d.mayHost(w); host != w.hosting {
		w.hosting = host
		if host {
			d.hosts.push(w)
		} else {
			d.hosts.remove(w)
		}
	}
}

// Gone says that the worker's end is proven. Its sessions are lost, with the cause told to their callers.
func (d *Dispatcher) Gone(w *Worker, cause string, now time.Time) {
	if w.State == Gone {
		return
	}
	w.State = Gone
	d.count(w)
	if d.bySlot[w.ID.Slot] == w {
		d.bySlot[w.ID.Slot] = nil
	}
	s := &d.slots[w.ID.Slot]
	if s.victim || !s.wanted {
		cause = s.lossCause(cause)
	} else {
		d.crashes.Died(now)
		d.looping = d.crashes.Looping(now)
	}
	d.sessions.Lives(w.owner, func(l *session.Life) { d.lose(l, cause, now) })
	d.sessions.RemoveOwner(w.owner)
	delete(d.workers, w.ID)
	if at, ok := slices.BinarySearchFunc(d.order, w, bySlot); ok {
		d.order = slices.Delete(d.order, at, at+1)
	}
	if s.victim {
		d.releaseSlot(s)
	}
	d.died(w)
	d.rescale(now)
	d.serveShared(now)
}

// Hold enters lives that a worker was found to hold, as told by the supervisor.
func (d *Dispatcher) Hold(w *Worker, lives []Held, now time.Time) {
	for _, h := range lives {
		adopted, loser, epoch := d.sessions.Adopt(h.Name, w.owner, h.Epoch, now)
		if loser != nil {
			other := loser.Holder.(*Worker)
			d.act(Action{Kind: Close, Worker: other, Epoch: epoch, Cause: CloseMoved})
			d.count(other)
		}
		if adopted != nil && d.settings.Affinity != Hint {
			adopted.SetStrict()
		}
	}
	d.count(w)
}

// Remember enters losses that an earlier router told, as kept by the supervisor. It comes after the lives that are held.
func (d *Dispatcher) Remember(losses []Lost, now time.Time) {
	if seeded.ForgetLosses {
		return
	}
	for _, x := range losses {
		x.Loss.Pod = d.sessions.Pod()
		d.sessions.Remember(x.Name, x.Loss, x.BegunAgain, d.lossTTL()-x.Age, now)
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
		for _, w := range d.order {
			d.slots[w.ID.Slot].wanted = true
			if d.draining {
				d.mark(int(w.ID.Slot), session.CauseDrained, d.drainEnd)
			}
		}
	}
	d.rescale(now)
	d.act(Action{Kind: Desired})
	d.serveShared(now)
}

// serveShared gives the free slots of all workers to what waits for any of them.
func (d *Dispatcher) serveShared(now time.Time) {
	for d.free > 0 {
		var w *Worker
		if d.anyone.Len() > 0 {
			w = d.choose(false)
		} else if d.fresh.Len() > 0 {
			w = d.choose(true)
		}
		if w == nil || !d.pull(w, now) {
			break
		}
	}
	d.recallSome(now)
}
