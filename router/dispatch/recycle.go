package dispatch

import (
	"time"

	"github.com/snakepit-k8s/snakepit/router/session"
)

// Recycle says when a worker is replaced by a fresh process. Limits of 0 are none.
type Recycle struct {
	MaxAge      time.Duration
	MaxRequests uint64
	MaxMemory   uint64        // bytes that only this worker has
	Jitter      float64       // 0 to 0.5: by which part the limits of each worker are lowered or raised
	Deadline    time.Duration // that sessions of the old worker have, and that a replacement has to become ready
}

// usage is what a worker has done and taken.
type usage struct {
	since   time.Time // first Up
	served  uint64
	private uint64 // bytes
	asked   bool   // a request wants it recycled
}

// recycling replaces one worker at a time: first a replacement becomes ready in the lowest free slot, then the old one drains.
type recycling struct {
	Recycle
	request   string
	old       *Worker // nil: nothing is being replaced
	fresh     int     // slot of its replacement; -1 when every slot is taken
	since     time.Time
	notBefore time.Time // of the next one, after a replacement that did not become ready
}

// SetRecycle follows new limits.
func (d *Dispatcher) SetRecycle(r Recycle) {
	r.Jitter = min(max(r.Jitter, 0), 0.5)
	d.recycling.Recycle = r
}

// Usage notes the memory, in bytes, that only this worker has.
func (d *Dispatcher) Usage(w *Worker, privateBytes uint64, _ time.Time) {
	w.usage.private = privateBytes
}

// RecycleWorkers asks for fresh processes in the slots, or in all. A request with the text of the one before is the same request and does nothing;
// "" does nothing, and neither does any before Supervised: it is to be asked again then.
func (d *Dispatcher) RecycleWorkers(request string, slots []uint32, now time.Time) {
	if !d.recovered || request == "" || request == d.recycling.request {
		return
	}
	d.recycling.request = request
	d.recycling.notBefore = time.Time{}
	for _, w := range d.order {
		asked := len(slots) == 0
		for _, i := range slots {
			asked = asked || i == uint32(w.ID.Slot)
		}
		w.usage.asked = asked && d.slots[w.ID.Slot].wanted
	}
	d.recycle(now)
}

// SkipRecycle takes a request as carried out already: the one that is there when a router starts. Either its workers are fresh too, or an earlier router
// of the pod was asked.
func (d *Dispatcher) SkipRecycle(request string) { d.recycling.request = request }

// recycle goes on with the replacement that is under way, or begins the next one once the pool is whole.
func (d *Dispatcher) recycle(now time.Time) {
	r := &d.recycling
	if r.old != nil {
		d.replace(now)
		return
	}
	if !d.recovered || d.draining || d.retired || d.standby || d.blocked != "" || now.Before(r.notBefore) || d.ready != d.wanted {
		return
	}
	old := d.nextOld(now)
	if old == nil || d.looping {
		return
	}
	inSlot := d.inSlots()
	for i := range d.slots {
		if s := &d.slots[i]; s.victim || s.wanted != (inSlot[i] != nil) {
			return
		}
	}
	r.old, r.since, r.fresh = old, now, d.freeSlot(&inSlot)
	if r.fresh < 0 {
		d.mark(int(old.ID.Slot), session.CauseRecycled, now.Add(r.Deadline))
		return
	}
	d.slots[r.fresh] = slot{wanted: true}
	d.slots[old.ID.Slot].leaving = true
	d.act(Action{Kind: Desired})
}

// nextOld is the worker to recycle next, or nil: without sessions, then the longest running, then the lowest slot.
func (d *Dispatcher) nextOld(now time.Time) *Worker {
	var best *Worker
	for _, w := range d.bySlot {
		if w == nil || !w.open || !d.outlived(w, now) {
			continue
		}
		switch {
		case best == nil, best.Sessions() > 0 && w.Sessions() == 0:
			best = w
		case (best.Sessions() > 0) == (w.Sessions() > 0) && w.usage.since.Before(best.usage.since):
			best = w
		}
	}
	return best
}

// outlived says that the worker is beyond a limit, or that it was asked for.
func (d *Dispatcher) outlived(w *Worker, now time.Time) bool {
	r, u := &d.recycling, &w.usage
	factor := 1 + r.Jitter*(2*spread(w.ID.Nonce)-1)
	return u.asked ||
		r.MaxAge > 0 && float64(now.Sub(u.since)) >= factor*float64(r.MaxAge) ||
		r.MaxRequests > 0 && float64(u.served) >= factor*float64(r.MaxRequests) ||
		r.MaxMemory > 0 && float64(u.private) >= factor*float64(r.MaxMemory)
}

// spread maps a nonce to a fraction in [0, 1) that differs between workers and stays with each.
func spread(nonce uint64) float64 {
	nonce += 0x9e3779b97f4a7c15
	nonce = (nonce ^ nonce>>30) * 0xbf58476d1ce4e5b9
	nonce = (nonce ^ nonce>>27) * 0x94d049bb133111eb
	return float64((nonce^nonce>>31)>>11) / (1 << 53)
}

// replace lets the old worker drain once its replacement is ready and as many as are wanted are left. After too long a time it drains all the same,
// or stays when there is no replacement.
func (d *Dispatcher) replace(now time.Time) {
	r := &d.recycling
	if r.old == nil || !d.slots[r.old.ID.Slot].leaving {
		return
	}
	fresh := d.bySlot[r.fresh]
	ready := fresh != nil && fresh.open
	late := now.Sub(r.since) >= max(r.Deadline, time.Minute)
	switch {
	case ready && (late || d.ready > d.wanted || !r.old.open):
		d.mark(int(r.old.ID.Slot), session.CauseRecycled, now.Add(r.Deadline))
	case late && !ready:
		r.notBefore = now.Add(max(r.Deadline, time.Minute))
		d.keepOld(now)
	}
}

// died ends the replacement of a worker that is gone. One that died before its replacement was ready leaves its slot to it.
func (d *Dispatcher) died(w *Worker) {
	if d.recycling.old != w {
		return
	}
	d.recycling.old = nil
	if s := &d.slots[w.ID.Slot]; s.leaving {
		d.releaseSlot(s)
	}
}

// Recycled says that the worker drains, or drained, to make room for a fresh process.
func (d *Dispatcher) Recycled(w *Worker) bool {
	return w.Draining && d.slots[w.ID.Slot].cause == session.CauseRecycled
}

// keepOld gives up a replacement that is not ready: the old worker stays.
func (d *Dispatcher) keepOld(now time.Time) {
	r := &d.recycling
	d.slots[r.old.ID.Slot].leaving = false
	d.mark(r.fresh, session.CauseScaledDown, now)
	r.old = nil
}
