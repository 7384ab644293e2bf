package dispatch

import (
	"slices"
	"strings"
	"time"

	"github.com/snakepit-k8s/snakepit/router/dispatch/fair"
)

// MaxAhead bounds the calls that are sent ahead to one worker.
const MaxAhead = 8

// recallCost is what it takes to have a call back and to place it again: a turn that comes sooner is waited for.
const recallCost = 200 * time.Microsecond

// overdue is after how many times PrefetchBelow a call that runs is so long that what was sent behind it is taken back.
const overdue = 10

// hosts is the list of workers that run a short call and may be sent more behind it, in the order in which they came to it.
type hosts struct{ head, tail *Worker }

func (h *hosts) push(w *Worker) {
	w.hostBefore, w.hostBehind = h.tail, nil
	if h.tail != nil {
		h.tail.hostBehind = w
	} else {
		h.head = w
	}
	h.tail = w
}

func (h *hosts) remove(w *Worker) {
	if w.hostBefore != nil {
		w.hostBefore.hostBehind = w.hostBehind
	} else {
		h.head = w.hostBehind
	}
	if w.hostBehind != nil {
		w.hostBehind.hostBefore = w.hostBefore
	} else {
		h.tail = w.hostBefore
	}
	w.hostBefore, w.hostBehind = nil, nil
}

// maxPaces bounds the tools and methods whose average is known.
const maxPaces = 1024

// Aim says which tool or method a call is for: before Admit, or as soon as that is known.
func (d *Dispatcher) Aim(c *Call, target string) {
	c.target, c.pace = target, d.paces[target]
	if c.at == reserved {
		d.count(c.Worker)
	}
}

// learn adds a run to the average of the call's tool. What no worker has run is no tool: callers say names, and cannot fill the memory for them.
func (d *Dispatcher) learn(c *Call, took time.Duration) {
	if c.pace == nil {
		c.pace = d.paces[c.target]
	}
	if c.pace == nil && c.target != "" && len(d.paces) < maxPaces {
		c.pace = &average{}
		d.paces[strings.Clone(c.target)] = c.pace // the text may be a part of the request
	}
	if c.pace != nil {
		c.pace.add(took)
	}
}

// usual is how long the call is taken to run; longer than PrefetchBelow while that is not known.
func (d *Dispatcher) usual(c *Call) time.Duration {
	if c.pace == nil || c.pace.samples < minSamples {
		return d.settings.PrefetchBelow + 1
	}
	return max(c.pace.mean, 1)
}

// mayHost says whether the worker may be sent one more call: what it has already is known to take no longer than PrefetchBelow together.
// Each tool has its own average, because a call behind a long one cannot be had back from a worker that holds the interpreter's lock.
func (d *Dispatcher) mayHost(w *Worker) bool {
	if w.State != Ready || !w.prefetch || w.active.n != 1 || w.long || len(w.following) >= MaxAhead {
		return false
	}
	runs := w.active.head
	if runs.Stream || runs.Open {
		return false
	}
	takes := d.usual(runs)
	for _, c := range w.following {
		takes += d.usual(c)
	}
	return takes <= d.settings.PrefetchBelow
}

// sendAhead gives the call without a session that is due first to a worker that will soon have a slot.
func (d *Dispatcher) sendAhead(now time.Time) {
	for w := d.hosts.head; w != nil; {
		next := w.hostBehind
		w.long = now.Sub(w.active.head.Began) > d.settings.PrefetchBelow // longer than it was taken for
		if d.mayHost(w) {
			d.follow(w, now)
			if d.hosts.head == w { // the next call goes to another one
				d.hosts.remove(w)
				d.hosts.push(w)
			}
			return
		}
		d.count(w)
		w = next
	}
}

// follow sends a call behind those that the worker has: one that nobody else may run, or one without a session. It reports false when there is none.
func (d *Dispatcher) follow(w *Worker, now time.Time) bool {
	if !d.mayHost(w) {
		return false
	}
	first := d.due(w)
	if first != nil && first.Queue() == &d.fresh { // the slot is for a new session
		return false
	}
	runs := w.active.head
	if l := runs.Life; l != nil && (runs.accepted || !runs.NoPrefetch) { // it was written when it got the slot: what is sent now is behind it
		if n := d.lane(l); n.reserved == 1 && n.waiting.head != nil && holder(l) == w {
			first = earlier(first, &n.waiting.head.item)
		}
	}
	c := sendable(first, now)
	if c == nil {
		return false
	}
	d.run(c, w, now)
	return true
}

func sendable(x *fair.Item, now time.Time) *Call {
	if x == nil {
		return nil
	}
	c := x.Value.(*Call)
	if c.Stream || c.Open || c.NoPrefetch || !c.Deadline.IsZero() && !now.Before(c.Deadline) {
		return nil
	}
	return c
}

// promote gives the slot that became free to the first call that was sent ahead.
func (d *Dispatcher) promote(w *Worker, now time.Time) {
	if len(w.following) == 0 || w.State != Ready || w.active.n >= w.Slots {
		return
	}
	c := w.following[0]
	w.following, w.long = slices.Delete(w.following, 0, 1), false
	c.Prefetched = false
	if c.Life == nil {
		d.unlinkAhead(c)
	} else {
		d.lane(c.Life).running = c
	}
	d.forgetRecall(c)
	w.active.push(c)
	c.Began, c.taken = now, now
}

// recallSome takes calls back that were sent ahead, while other workers are free and have nothing to do. A call whose turn is about to come
// anyway is left: taking it back costs more.
func (d *Dispatcher) recallSome(now time.Time) {
	for c := d.ahead.head; c != nil && d.recalls < d.free; c = d.ahead.head {
		if runs := c.Worker.active.head; runs != nil && d.usual(runs) <= d.settings.PrefetchBelow && now.Sub(runs.Began) < d.usual(runs)+recallCost {
			return
		}
		d.recall(c)
	}
}

// recallOverdue takes back what was sent behind a call that turned out to be long.
func (d *Dispatcher) recallOverdue(now time.Time) {
	d.recallSome(now)
	for c := d.ahead.head; c != nil; {
		next := c.next
		if runs := c.Worker.active.head; runs == nil || now.Sub(runs.Began) > overdue*d.settings.PrefetchBelow {
			d.recall(c)
		}
		c = next
	}
}

func (d *Dispatcher) recall(c *Call) {
	d.unlinkAhead(c)
	c.recalled = true
	d.recalls++
	d.act(Action{Kind: Recall, Call: c, Worker: c.Worker})
}

// unlinkAhead takes a call out of those that may be recalled; once it was, it is out already.
func (d *Dispatcher) unlinkAhead(c *Call) {
	if c.prev != nil || c.next != nil || d.ahead.head == c {
		d.ahead.remove(c)
	}
}

func (d *Dispatcher) forgetRecall(c *Call) {
	if c.recalled {
		c.recalled = false
		d.recalls--
	}
}

// Recalled ends the reservation of a call that its worker gave back, or that was never written to it. The call is placed again, and not sent ahead again.
func (d *Dispatcher) Recalled(c *Call, now time.Time) {
	c.NoPrefetch = true
	w := d.unreserve(c, now)
	d.again(c, w, nil, false, now)
}
