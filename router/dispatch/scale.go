package dispatch

import (
	"time"

	"github.com/snakepit-k8s/snakepit/router/session"
)

// slot is a place for a worker in the container.
type slot struct {
	wanted bool
	victim bool // chosen once, and kept
	endsAt time.Time
	cause  string
}

func (s *slot) lossCause(otherwise string) string {
	if s.cause != "" {
		return s.cause
	}
	return otherwise
}

// SetWanted follows the number of workers that is wanted. Slots are chosen once a supervisor has said what there is.
func (d *Dispatcher) SetWanted(n int, now time.Time) {
	d.wanted = min(max(n, 0), MaxSlots)
	if d.recovered {
		d.rescale(now)
	}
}

// DesiredSlots lists the slots that shall hold a worker, in ascending order. Nil before the supervisor said what there is.
func (d *Dispatcher) DesiredSlots() []uint32 {
	if !d.recovered {
		return nil
	}
	slots := make([]uint32, 0, d.wanted)
	for i := range d.slots {
		if d.slots[i].wanted {
			slots = append(slots, uint32(i))
		}
	}
	return slots
}

// rescale adds the lowest free slots or marks victims until as many slots are active as are wanted.
func (d *Dispatcher) rescale(now time.Time) {
	if !d.recovered || d.draining {
		return
	}
	active := 0
	for i := range d.slots {
		if d.slots[i].wanted && !d.slots[i].victim {
			active++
		}
	}
	bySlot := d.bySlot()
	changed := false
	for i := 0; i < MaxSlots && active < d.wanted; i++ {
		if s := &d.slots[i]; !s.wanted && bySlot[i] == nil {
			*s = slot{wanted: true}
			active++
			changed = true
		}
	}
	if changed {
		d.act(Action{Kind: Desired})
	}
	for ; active > d.wanted; active-- {
		d.mark(d.victim(&bySlot), session.CauseScaledDown, now.Add(d.settings.DrainTimeout), now)
	}
}

func (d *Dispatcher) bySlot() [MaxSlots]*Worker {
	var by [MaxSlots]*Worker
	for _, w := range d.workers {
		by[w.ID.Slot] = w
	}
	return by
}

// victim is the active slot whose end costs least: without a worker, not ready, without sessions, idle, then the highest.
func (d *Dispatcher) victim(bySlot *[MaxSlots]*Worker) int {
	best, bestCost := -1, 0
	for i := MaxSlots - 1; i >= 0; i-- {
		if !d.slots[i].wanted || d.slots[i].victim {
			continue
		}
		cost := 0
		if w := bySlot[i]; w != nil {
			cost = 1 + 4*w.Sessions()
			if w.State == Ready {
				cost++
			}
			if w.current != nil {
				cost++
			}
		}
		if best < 0 || cost < bestCost {
			best, bestCost = i, cost
		}
	}
	return best
}

// mark makes a slot a victim: no new sessions, and an end by the deadline.
func (d *Dispatcher) mark(i int, cause string, endsAt time.Time, now time.Time) {
	s := &d.slots[i]
	s.victim, s.cause, s.endsAt = true, cause, endsAt
	found := false
	for _, w := range d.workers {
		if int(w.ID.Slot) == i {
			found = true
			w.Draining, w.EndsAt = true, endsAt
			d.release(w, now)
		}
	}
	if !found {
		d.releaseSlot(s)
	}
}

// release lets a drained worker go: nothing runs, waits or lives there.
func (d *Dispatcher) release(w *Worker, _ time.Time) {
	if s := &d.slots[w.ID.Slot]; w.Draining && s.wanted && w.current == nil && w.waiting.n == 0 && w.Sessions() == 0 {
		d.releaseSlot(s)
	}
}

func (d *Dispatcher) releaseSlot(s *slot) {
	s.wanted, s.victim = false, false
	d.act(Action{Kind: Desired})
}

// Drain ends the group: no new sessions, calls without one are refused, and what is left at the deadline is lost. A later call may only shorten it.
func (d *Dispatcher) Drain(deadline, now time.Time) {
	if d.draining {
		if !deadline.Before(d.drainEnd) {
			return
		}
		d.drainEnd = deadline
		for i := range d.slots {
			d.slots[i].endsAt = deadline
		}
		for _, w := range d.workers {
			w.EndsAt = deadline
		}
		d.Tick(now)
		return
	}
	d.draining, d.drainEnd = true, deadline
	d.refuseAll(&d.shared, now)
	for i := range d.slots {
		if s := &d.slots[i]; s.wanted {
			d.mark(i, session.CauseDrained, deadline, now)
		}
	}
	d.Tick(now)
}

// Drained says that a drain is complete: nothing runs, waits or lives.
func (d *Dispatcher) Drained() bool {
	return d.draining && d.running == 0 && d.queued == 0 && d.sessions.Sessions() == 0
}

// Tick does what time asks for: idle sessions end, victims whose deadline passed lose their sessions and go, old records of losses are dropped.
func (d *Dispatcher) Tick(now time.Time) {
	d.sessions.ForgetLosses(now)
	for _, w := range d.workers {
		if s := &d.slots[w.ID.Slot]; s.victim && !now.Before(s.endsAt) {
			d.expireVictim(w, s, now)
			continue
		}
		ended := false
		d.sessions.Expired(w.owner, d.settings.IdleTimeout, now, func(l *session.Life) {
			ended = true
			d.closeLife(w, l, CloseIdle)
		})
		if ended {
			d.settle(w, now)
		}
	}
}

func (d *Dispatcher) expireVictim(w *Worker, s *slot, now time.Time) {
	d.sessions.Lives(w.owner, func(l *session.Life) {
		if l.Opened() {
			d.act(Action{Kind: Close, Worker: w, Epoch: l.Epoch(), Cause: CloseDrain})
		}
		d.lose(l, s.cause, now)
	})
	if s.wanted {
		d.releaseSlot(s)
	}
	d.serveShared(now)
}

// closeLife ends a life that has no calls waiting, and tells its worker.
func (d *Dispatcher) closeLife(w *Worker, l *session.Life, cause uint16) {
	if l.Opened() {
		d.act(Action{Kind: Close, Worker: w, Epoch: l.Epoch(), Cause: cause})
	}
	d.sessions.End(l)
}

// Retire refuses what waits and every later call: this router ends, its workers stay. Running calls go on.
func (d *Dispatcher) Retire(now time.Time) {
	d.retired = true
	d.refuseAll(&d.shared, now)
	for _, w := range d.workers {
		d.refuseAll(&w.waiting, now)
	}
}

func (d *Dispatcher) refuseAll(q *queue, now time.Time) {
	for c := q.head; c != nil; {
		next := c.next
		d.dequeue(c, now)
		d.refuse(c, Refusal{Reason: Draining, Wait: time.Second})
		c = next
	}
}
