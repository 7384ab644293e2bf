package dispatch

import (
	"time"

	"github.com/snakepit-k8s/snakepit/router/dispatch/fair"
	"github.com/snakepit-k8s/snakepit/router/session"
)

// slot is a place for a worker in the container.
type slot struct {
	wanted  bool
	victim  bool // chosen once, and kept
	leaving bool // its worker becomes a victim when the replacement in another slot is ready; it does not count as active
	endsAt  time.Time
	cause   string
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
		if d.slots[i].active() {
			active++
		}
	}
	inSlot := d.inSlots()
	for ; active < d.wanted; active++ {
		i := d.freeSlot(&inSlot)
		if i < 0 {
			break
		}
		d.slots[i] = slot{wanted: true}
		d.act(Action{Kind: Desired})
	}
	endsAt := now.Add(d.settings.DrainTimeout)
	for ; active > d.wanted; active-- {
		i := d.victim(&inSlot)
		if old := d.recycling.old; old != nil && d.slots[old.ID.Slot].leaving { // it was to go anyway
			d.keepOld(now)
			i = int(old.ID.Slot)
		}
		d.mark(i, session.CauseScaledDown, endsAt)
	}
}

func (s *slot) active() bool { return s.wanted && !s.victim && !s.leaving }

// freeSlot is the lowest one that is not wanted and has no worker, or -1.
func (d *Dispatcher) freeSlot(inSlot *[MaxSlots]*Worker) int {
	for i := range d.slots {
		if !d.slots[i].wanted && inSlot[i] == nil {
			return i
		}
	}
	return -1
}

func (d *Dispatcher) inSlots() [MaxSlots]*Worker {
	var by [MaxSlots]*Worker
	for _, w := range d.order {
		by[w.ID.Slot] = w
	}
	return by
}

// victim is the active slot whose end costs least: without a worker, not ready, without sessions, idle, then the highest.
func (d *Dispatcher) victim(inSlot *[MaxSlots]*Worker) int {
	best, bestCost := -1, 0
	for i := MaxSlots - 1; i >= 0; i-- {
		if !d.slots[i].active() {
			continue
		}
		cost := 0
		if w := inSlot[i]; w != nil {
			cost = 1 + 4*w.Sessions()
			if w.State == Ready {
				cost++
			}
			if w.active.n > 0 {
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
func (d *Dispatcher) mark(i int, cause string, endsAt time.Time) {
	s := &d.slots[i]
	s.victim, s.leaving, s.cause, s.endsAt = true, false, cause, endsAt
	found := false
	for _, w := range d.order {
		if int(w.ID.Slot) == i {
			found = true
			w.Draining, w.EndsAt = true, endsAt
			d.count(w)
			d.letGo(w)
		}
	}
	if !found {
		d.releaseSlot(s)
	}
}

// letGo gives up the slot of a drained worker: nothing runs, waits or lives there.
func (d *Dispatcher) letGo(w *Worker) {
	if s := &d.slots[w.ID.Slot]; w.Draining && s.wanted && s.victim && w.active.n == 0 && len(w.following) == 0 && w.Sessions() == 0 {
		d.releaseSlot(s)
	}
}

func (d *Dispatcher) releaseSlot(s *slot) {
	s.wanted, s.victim, s.leaving = false, false, false
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
			d.slots[i].endsAt = soonest(d.slots[i].endsAt, deadline)
		}
		for _, w := range d.order {
			w.EndsAt = d.slots[w.ID.Slot].endsAt
		}
		d.Tick(now)
		return
	}
	d.draining, d.drainEnd = true, deadline
	d.recycling.old = nil
	d.refuseShared(Refusal{Reason: Draining, Wait: time.Second}, now)
	for i := range d.slots {
		s := &d.slots[i]
		switch {
		case s.wanted && s.victim:
			d.mark(i, session.CauseDrained, soonest(s.endsAt, deadline))
		case s.wanted:
			d.mark(i, session.CauseDrained, deadline)
		}
	}
	d.Tick(now)
}

func soonest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Drained says that a drain is complete: nothing runs, waits or lives.
func (d *Dispatcher) Drained() bool {
	return d.draining && d.reserved == 0 && d.queued == 0 && d.sessions.Sessions() == 0
}

// Tick does what time asks for: idle sessions end, victims whose deadline passed lose their sessions and go, old records of losses are dropped.
func (d *Dispatcher) Tick(now time.Time) {
	d.sessions.ForgetLosses(now)
	d.looping = d.crashes.Looping(now)
	for _, w := range d.order {
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
	d.recallOverdue(now)
	d.recycle(now)
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
	d.end(l)
}

// Retire refuses what waits and every later call: this router ends, its workers stay. Running calls go on.
func (d *Dispatcher) Retire(now time.Time) {
	d.retired = true
	why := Refusal{Reason: Draining, Wait: time.Second}
	d.refuseShared(why, now)
	for _, n := range d.lanes[1:] {
		for c := n.waiting.head; c != nil; c = n.waiting.head {
			d.dequeue(c, now)
			d.refuse(c, why)
		}
	}
}

// refuseShared refuses what waits for any worker.
func (d *Dispatcher) refuseShared(why Refusal, now time.Time) {
	for _, q := range []*fair.Queue{&d.anyone, &d.fresh} {
		for x := q.Head(); x != nil; x = q.Head() {
			c := x.Value.(*Call)
			d.dequeue(c, now)
			d.refuse(c, why)
		}
	}
}
