package dispatch

import "time"

// enqueue puts a call where it waits: with its worker when its life is bound, else in the shared queue.
func (d *Dispatcher) enqueue(c *Call) {
	d.queued++
	if c.Life != nil && c.Life.Owner() != nil {
		d.workers[c.Life.Owner().ID].waiting.insert(c)
		return
	}
	d.shared.insert(c)
}

// dequeue takes a waiting call out for good.
func (d *Dispatcher) dequeue(c *Call, now time.Time) {
	c.in.remove(c)
	d.queued--
	if c.Life != nil {
		d.sessions.Done(c.Life, true, now)
	}
}

// place runs a call that was just queued, if somebody is free for it.
func (d *Dispatcher) place(c *Call, now time.Time) {
	if c.Life != nil && c.Life.Owner() != nil {
		w := d.workers[c.Life.Owner().ID]
		if d.mayMove(c, w) {
			if other := d.choose(c); other != nil {
				d.move(c, w)
				d.pull(other, now)
				return
			}
		}
		d.pull(w, now)
		return
	}
	if w := d.choose(c); w != nil {
		d.pull(w, now)
	}
}

// mayMove: a hinted life leaves a worker that cannot serve it now, unless a call of it runs or waits there.
func (d *Dispatcher) mayMove(c *Call, w *Worker) bool {
	return !c.Life.Strict() && c.Life.Pending() == 1 && c.Token == nil && !d.draining &&
		(w.current != nil || w.State != Ready || w.Draining)
}

// move takes the life of a hinted call from its worker.
func (d *Dispatcher) move(c *Call, from *Worker) {
	from.waiting.remove(c)
	if c.Life.Opened() {
		d.act(Action{Kind: Close, Worker: from, Epoch: c.Life.Epoch(), Cause: CloseMoved})
	}
	d.sessions.Unbind(c.Life, c.Life.Held())
	d.shared.insert(c)
}

// choose finds the free worker that a call without a bound life should run on: the one with the fewest sessions, then the lowest slot.
func (d *Dispatcher) choose(c *Call) *Worker {
	var best *Worker
	for _, w := range d.workers {
		if !d.mayServe(w, c) || w.current != nil {
			continue
		}
		if best == nil || w.Sessions() < best.Sessions() || w.Sessions() == best.Sessions() && w.ID.Slot < best.ID.Slot {
			best = w
		}
	}
	return best
}

// mayServe says whether a worker may take a call from the shared queue.
func (d *Dispatcher) mayServe(w *Worker, c *Call) bool {
	return w.State == Ready && !w.Draining && (c.Life == nil || w.Sessions() < d.settings.MaxPerWorker)
}

// pull gives the free slot of a worker to the earliest call that it may serve.
func (d *Dispatcher) pull(w *Worker, now time.Time) {
	if w.current != nil || w.State != Ready {
		return
	}
	own := w.waiting.head
	var other *Call
	for c := d.shared.head; c != nil && !w.Draining && (own == nil || c.seq < own.seq); c = c.next {
		if d.mayServe(w, c) {
			other = c
			break
		}
	}
	if other != nil {
		d.run(other, w, now)
	} else if own != nil {
		d.run(own, w, now)
	}
}

// run reserves the slot for the call, and binds its life if it has none.
func (d *Dispatcher) run(c *Call, w *Worker, now time.Time) {
	c.in.remove(c)
	d.queued--
	d.running++
	w.current, c.Worker, c.began, c.running = c, w, now, true
	if l := c.Life; l != nil {
		fresh := l.Owner() == nil
		if fresh {
			d.sessions.Bind(l, w.owner, now)
		}
		switch {
		case c.State == StateNew || c.State == StateRebound: // repeated before anything was accepted
		case fresh && l.Again():
			c.State = StateRebound
		case fresh:
			c.State = StateNew
		default:
			c.State = StateBound
		}
		l.SetRunning(true)
		d.sessions.Run(l)
		if fresh && l.Queued() > 0 {
			d.follow(c, w)
		}
	}
	d.act(Action{Kind: Run, Call: c, Worker: w})
}

// follow moves the calls that waited for the life of c in the shared queue to the worker it was bound to.
func (d *Dispatcher) follow(c *Call, w *Worker) {
	for x := d.shared.head; x != nil; {
		next := x.next
		if x.Life == c.Life {
			d.shared.remove(x)
			w.waiting.insert(x)
		}
		x = next
	}
}

// Accepted notes that the worker began the call: its session may hold state from now on.
func (d *Dispatcher) Accepted(c *Call) {
	if c.Life != nil {
		c.Life.SetHeld()
	}
}

// Finished ends a reservation whose call ran.
func (d *Dispatcher) Finished(c *Call, now time.Time) {
	if !c.Open && !c.Stream {
		d.sample(now.Sub(c.began))
	}
	d.free(c, now)
}

// Abandon ends a reservation whose call was never written to the worker.
func (d *Dispatcher) Abandon(c *Call, now time.Time) {
	l := c.Life
	d.free(c, now)
	if l != nil && l.Pending() == 0 && !l.Opened() && !l.Ended() { // its worker never heard of it
		d.sessions.End(l)
	}
}

// Expire ends a call that waits: its queue time or its deadline is over, or (canceled) its caller has gone. It reports false when the call does not wait.
func (d *Dispatcher) Expire(c *Call, canceled bool, now time.Time) bool {
	if c.in == nil {
		return false
	}
	worker := d.workers[lifeOwner(c)]
	d.dequeue(c, now)
	switch {
	case canceled:
		d.refuse(c, Refusal{Reason: DeadlinePassed})
	case !c.Deadline.IsZero() && !now.Before(c.Deadline):
		d.refuse(c, Refusal{Reason: DeadlinePassed})
	case worker == nil && !d.anyReady():
		d.refuse(c, d.noReady())
	default:
		d.refuse(c, Refusal{Reason: QueueTimeout, Wait: d.waitHint(d.queued + 1)})
	}
	if worker != nil {
		d.settle(worker, now)
	}
	return true
}

// sample keeps a moving average over about 16 calls.
func (d *Dispatcher) sample(took time.Duration) {
	d.samples++
	if d.samples == 1 {
		d.average = took
		return
	}
	d.average += (took - d.average) / 16
}

// free ends a reservation and gives the slot to the next call.
func (d *Dispatcher) free(c *Call, now time.Time) {
	w := d.unreserve(c)
	if c.Life != nil {
		d.sessions.Done(c.Life, false, now)
	}
	d.settle(w, now)
}

func (d *Dispatcher) unreserve(c *Call) *Worker {
	w := c.Worker
	w.current = nil
	c.running = false
	d.running--
	if c.Life != nil {
		c.Life.SetRunning(false)
	}
	return w
}

// settle gives a free slot on, or lets a drained worker go.
func (d *Dispatcher) settle(w *Worker, now time.Time) {
	d.pull(w, now)
	d.release(w, now)
}
