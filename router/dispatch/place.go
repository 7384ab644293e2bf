package dispatch

import (
	"slices"
	"time"

	"github.com/snakepit-k8s/snakepit/router/dispatch/fair"
	"github.com/snakepit-k8s/snakepit/router/dispatch/least"
	"github.com/snakepit-k8s/snakepit/router/seeded"
	"github.com/snakepit-k8s/snakepit/router/session"
)

// starveAfter is how many calls of its own a worker runs, one after the other, while a new session waits for it.
const starveAfter = 16

// creditOverNew is how many calls a tenant may be ahead of another and still have its bound sessions served before the other's new ones.
const creditOverNew = 4

// lane holds the calls of one life that has some. The first that waits is in a queue when it may run; the others wait behind it.
type lane struct {
	life     *session.Life
	waiting  calls // in order of arrival
	shown    *Call // the one that is in a queue
	running  *Call
	reserved int // running or sent ahead
}

// lane of a life, made when it has none.
func (d *Dispatcher) lane(l *session.Life) *lane {
	if tag := l.Tag(); tag != 0 {
		return d.lanes[tag]
	}
	if len(d.spare) == 0 {
		d.spare = append(d.spare, uint32(len(d.lanes)))
		d.lanes = append(d.lanes, &lane{})
	}
	tag := d.spare[len(d.spare)-1]
	d.spare = d.spare[:len(d.spare)-1]
	l.SetTag(tag)
	d.lanes[tag].life = l
	return d.lanes[tag]
}

// done counts a call out of its life.
func (d *Dispatcher) done(l *session.Life, queued bool, now time.Time) {
	d.sessions.Done(l, queued, now)
	if tag := l.Tag(); tag != 0 && l.Pending() == 0 {
		l.SetTag(0)
		d.lanes[tag].life = nil
		d.spare = append(d.spare, tag)
	}
}

// holder is the worker that has the life, or nil.
func holder(l *session.Life) *Worker {
	if o := l.Owner(); o != nil {
		return o.Holder.(*Worker)
	}
	return nil
}

// show puts the first waiting call of a life where a worker will find it: with the life's worker, unless that has a call of it already,
// or among the new sessions.
func (d *Dispatcher) show(n *lane) {
	var q *fair.Queue
	if n.waiting.head != nil && n.reserved == 0 {
		q = &d.fresh
		if w := holder(n.life); w != nil {
			q = &w.own
		}
	}
	if s := n.shown; s != nil && (s != n.waiting.head || s.item.Queue() != q) {
		s.item.Remove()
		n.shown = nil
	}
	if q != nil && n.shown == nil {
		n.shown = n.waiting.head
		q.Push(&n.shown.item)
	}
}

// enqueue lets a call wait. Again: it has waited before.
func (d *Dispatcher) enqueue(c *Call, again bool) {
	d.queued++
	c.at = waiting
	d.tenants.Wait(&c.item, c.tenant, again)
	if c.Life == nil {
		d.anyone.Push(&c.item)
		return
	}
	n := d.lane(c.Life)
	after := n.waiting.tail
	for after != nil && (after.item.Seq > c.item.Seq || seeded.FIFOReorder && n.waiting.n > 1 && after.next == nil) {
		after = after.prev
	}
	n.waiting.insert(c, after)
	if w := holder(c.Life); w != nil {
		w.queued++
	}
	d.show(n)
}

// take ends a call's waiting.
func (d *Dispatcher) take(c *Call) {
	d.queued--
	c.at = nowhere
	if c.Life == nil {
		c.item.Remove()
	} else {
		n := d.lane(c.Life)
		n.waiting.remove(c)
		if w := holder(c.Life); w != nil {
			w.queued--
		}
		d.show(n)
	}
	d.tenants.Leave(&c.item)
}

// dequeue takes a waiting call out for good.
func (d *Dispatcher) dequeue(c *Call, now time.Time) {
	d.take(c)
	if c.Life != nil {
		d.done(c.Life, true, now)
	}
}

// place runs a call that was just queued, if somebody is free for it, or sends it ahead.
func (d *Dispatcher) place(c *Call, now time.Time) {
	if c.Life == nil {
		if w := d.choose(false); w != nil {
			d.pull(w, now)
		} else {
			d.sendAhead(now)
		}
		d.recallSome(now)
		return
	}
	w := holder(c.Life)
	if w != nil && d.mayMove(c, w) && d.choose(true) != nil {
		d.move(c, w)
		w = nil
	}
	if w == nil {
		if w = d.choose(true); w == nil {
			return
		}
	}
	d.pull(w, now)
	d.follow(w, now)
}

// mayMove: a hinted life leaves a worker that cannot serve it now, unless a call of it runs or waits there.
func (d *Dispatcher) mayMove(c *Call, w *Worker) bool {
	return !c.Life.Strict() && c.Life.Pending() == 1 && c.Token == nil && !d.draining &&
		(w.active.n >= w.Slots || w.State != Ready || w.Draining)
}

// move takes the life of a hinted call from its worker.
func (d *Dispatcher) move(c *Call, from *Worker) {
	if c.Life.Opened() {
		d.act(Action{Kind: Close, Worker: from, Epoch: c.Life.Epoch(), Cause: CloseMoved})
	}
	d.unbind(c.Life)
}

// choose finds the free worker for a call that is bound to none, or nil: for a session the one with the fewest sessions that may have one more,
// else the one that runs the fewest calls.
func (d *Dispatcher) choose(session bool) *Worker {
	tree := d.byCalls
	if session {
		tree = d.bySessions
	}
	key := tree.Min()
	if key == least.Absent {
		return nil
	}
	w := d.bySlot[key%MaxSlots]
	if session && w.Sessions() >= d.settings.MaxPerWorker {
		return nil
	}
	return w
}

// pull gives a free slot of a worker to the call that is due first. It reports false when there is no slot or no call.
func (d *Dispatcher) pull(w *Worker, now time.Time) bool {
	for w.State == Ready && w.active.n < w.Slots {
		first := d.due(w)
		if first == nil {
			return false
		}
		c := first.Value.(*Call)
		if !c.Deadline.IsZero() && !now.Before(c.Deadline) { // its worker would refuse it
			d.dequeue(c, now)
			d.refuse(c, Refusal{Reason: DeadlinePassed})
			continue
		}
		d.run(c, w, now)
		return true
	}
	return false
}

// due is the call that the worker should run next, or nil. Tenants are served by their shares. Of one tenant, calls come in order of arrival,
// but those of the worker's sessions before new sessions; these wait for no more than starveAfter of them.
func (d *Dispatcher) due(w *Worker) *fair.Item {
	own := w.own.Head()
	if w.Draining {
		return own
	}
	first := earlier(own, d.anyone.Head())
	if w.Sessions() >= d.settings.MaxPerWorker {
		return first
	}
	fresh := d.fresh.Head()
	switch {
	case fresh == nil:
		return first
	case own != nil && w.passed >= starveAfter:
		return fresh
	case own != nil && fair.Owed(fresh, own) <= creditOverNew:
		return first
	}
	return earlier(first, fresh)
}

func earlier(a, b *fair.Item) *fair.Item {
	if a == nil || b != nil && fair.Before(b, a) {
		return b
	}
	return a
}

// run reserves a slot for the call, or the next one when all are taken, and binds its life if it has none.
func (d *Dispatcher) run(c *Call, w *Worker, now time.Time) {
	d.tenants.Serve(&c.item)
	c.Worker, c.recalled, c.accepted = w, false, false
	c.Prefetched = w.active.n >= w.Slots
	c.ahead = c.Prefetched
	if l := c.Life; l != nil {
		d.enterLife(c, l, w, now)
	}
	d.take(c)
	c.at = reserved
	d.reserved++
	if c.Prefetched {
		w.following, c.Began = append(w.following, c), time.Time{}
		if c.Life == nil {
			d.ahead.push(c)
		}
	} else {
		w.active.push(c)
		c.Began, c.taken, w.long = now, now, false
	}
	d.count(w)
	d.act(Action{Kind: Run, Call: c, Worker: w})
}

func (d *Dispatcher) enterLife(c *Call, l *session.Life, w *Worker, now time.Time) {
	fresh := l.Owner() == nil
	if w.passed++; fresh || d.fresh.Len() == 0 {
		w.passed = 0
	}
	if fresh {
		d.sessions.Bind(l, w.owner, now)
		w.queued += l.Queued()
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
	d.sessions.Run(l)
	n := d.lane(l)
	n.reserved++
	if !c.Prefetched {
		n.running = c
	}
}

// Accepted notes that the worker began the call: its session may hold state from now on.
func (d *Dispatcher) Accepted(c *Call, now time.Time) {
	if c.at != reserved {
		return
	}
	c.accepted, c.ahead = true, false
	d.forgetRecall(c)
	c.Began = now
	if l := c.Life; l != nil && holder(l) == c.Worker {
		l.SetHeld()
		if d.lane(l).waiting.n > 0 {
			d.follow(c.Worker, now)
		}
	}
}

// Finished ends a reservation whose call ran.
func (d *Dispatcher) Finished(c *Call, now time.Time) {
	if !c.Open && !c.Stream && !c.Prefetched {
		d.learn(c, now.Sub(c.Began))
		d.held.addUsual(now.Sub(c.taken))
	}
	if l := c.Life; l != nil && holder(l) == c.Worker {
		l.SetHeld() // also when the link broke before Accepted was read
	}
	c.Worker.usage.served++
	d.release(c, now)
}

// Abandon ends a reservation whose call was never written to the worker.
func (d *Dispatcher) Abandon(c *Call, now time.Time) {
	l := c.Life
	if seeded.ForgetRelease && !c.accepted && c.retries > 0 {
		return
	}
	d.release(c, now)
	if l != nil && l.Pending() == 0 && !l.Opened() && !l.Ended() { // its worker never heard of it
		w := c.Worker
		d.end(l)
		d.settle(w, now)
	}
}

// Expire ends a call that waits: its queue time or its deadline is over, or (canceled) its caller has gone. It reports false when the call does not wait.
func (d *Dispatcher) Expire(c *Call, canceled bool, now time.Time) bool {
	if c.at != waiting {
		return false
	}
	bound := c.Life != nil && c.Life.Owner() != nil
	d.dequeue(c, now)
	switch {
	case canceled:
		d.refuse(c, Refusal{Reason: DeadlinePassed})
	case !c.Deadline.IsZero() && !now.Before(c.Deadline):
		d.refuse(c, Refusal{Reason: DeadlinePassed})
	case !bound && d.ready == 0:
		d.refuse(c, d.noReady())
	default:
		d.refuse(c, Refusal{Reason: QueueTimeout, Wait: d.waitHint(d.queued + 1)})
	}
	return true
}

// release ends a reservation and gives the slot to the next call.
func (d *Dispatcher) release(c *Call, now time.Time) {
	w := d.unreserve(c, now)
	if c.Life != nil {
		d.done(c.Life, false, now)
	}
	d.settle(w, now)
	if l := c.Life; l != nil && l.Queued() > 0 && holder(l) == nil {
		d.serveShared(now) // its worker was taken from it under this call: the next one may go to any
	}
}

// unreserve takes a call off its worker. The one that was sent ahead, if any, has the slot then.
func (d *Dispatcher) unreserve(c *Call, now time.Time) *Worker {
	w := c.Worker
	d.forgetRecall(c)
	d.reserved--
	c.at = nowhere
	if c.Prefetched {
		c.Prefetched = false
		w.following = slices.DeleteFunc(w.following, func(x *Call) bool { return x == c })
		if c.Life == nil {
			d.unlinkAhead(c)
		}
	} else {
		w.active.remove(c)
	}
	if c.Life != nil {
		n := d.lane(c.Life)
		n.reserved--
		if n.running == c {
			n.running = nil
		}
		d.show(n)
	}
	d.promote(w, now)
	d.count(w)
	return w
}

// settle gives the free slots of a worker on, sends it a call ahead, or lets it go when it is drained.
func (d *Dispatcher) settle(w *Worker, now time.Time) {
	for d.pull(w, now) {
	}
	for d.follow(w, now) {
	}
	d.recallSome(now)
	d.letGo(w)
}
