package dispatch

import (
	"fmt"
	"time"

	"pgregory.net/rapid"

	"github.com/snakepit-k8s/snakepit/router/session"
)

// world drives a Dispatcher with random events and holds what must be true against a simple model of its own: where each call is, who runs what,
// who owns which session, and in which order the calls of a life began.
type world struct {
	t       *rapid.T
	d       *Dispatcher
	now     time.Time
	nonce   uint64
	arrived int
	order   map[*Call]int // of arrival
	waiting map[*Call]bool
	running map[*Call]bool // has a slot
	ahead   map[*Call]bool // has a later turn
	turn    map[*Call]int  // of what is ahead: in which order it was sent
	turns   int
	recall  map[*Call]bool // asked back, not answered
	slots   map[*Worker]int
	ready   map[*Worker]bool
	tokens  []session.Token
	owners  map[string]session.Worker // (name, epoch) → owner, for ever
	began   map[*session.Life]int     // the latest arrival that began in a life
	retried map[*Call]bool
	drained map[*Worker]bool // seen draining
	longest int              // calls that waited at the last look
}

func settings() Settings {
	return Settings{Affinity: StrictQueue, MaxPerWorker: 3, IdleTimeout: 20 * time.Second, MaxLength: 6, PerSession: 3,
		QueueTimeout: 5 * time.Second, DrainTimeout: 4 * time.Second}
}

func newWorld(t *rapid.T, s Settings) *world {
	w := &world{t: t, now: time.Unix(1_700_000_000, 0), order: map[*Call]int{}, waiting: map[*Call]bool{}, running: map[*Call]bool{},
		ahead: map[*Call]bool{}, turn: map[*Call]int{}, recall: map[*Call]bool{}, slots: map[*Worker]int{}, ready: map[*Worker]bool{},
		owners: map[string]session.Worker{}, began: map[*session.Life]int{}, retried: map[*Call]bool{}, drained: map[*Worker]bool{}}
	w.d = New("pod", s, w.now)
	if s.PrefetchBelow > 0 {
		w.d.paces["short"] = &average{samples: 1000, mean: s.PrefetchBelow / 2}
		w.d.paces["long"] = &average{samples: 1000, mean: 10 * s.PrefetchBelow}
	}
	w.d.SetRecycle(Recycle{Deadline: 8 * time.Second, MaxRequests: 40, MaxAge: time.Hour, MaxMemory: 1 << 30, Jitter: 0.2})
	w.d.Supervised(w.now)
	w.d.SetWanted(3, w.now)
	w.apply()
	return w
}

// apply carries out the actions and checks each.
func (w *world) apply() {
	for actions := w.d.Actions(); len(actions) > 0; actions = w.d.Actions() {
		for _, a := range actions {
			switch a.Kind {
			case Run:
				w.ran(a.Call, a.Worker)
			case Refuse:
				if !w.waiting[a.Call] {
					w.t.Fatalf("refused a call that does not wait: %+v", a.Refusal)
				}
				delete(w.waiting, a.Call)
			case Recall:
				if !w.ahead[a.Call] || a.Call.Life != nil || a.Worker != a.Call.Worker {
					w.t.Fatalf("recalled a call that was not sent ahead, or that may run nowhere else")
				}
				w.recall[a.Call] = true
			}
		}
	}
}

func (w *world) on(worker *Worker, of map[*Call]bool) (n int) {
	for c := range of {
		if c.Worker == worker {
			n++
		}
	}
	return n
}

func (w *world) ran(c *Call, worker *Worker) {
	if !w.waiting[c] {
		w.t.Fatalf("ran a call that does not wait")
	}
	if !w.ready[worker] {
		w.t.Fatalf("ran a call on a worker that is not ready")
	}
	delete(w.waiting, c)
	full := w.on(worker, w.running) >= w.slots[worker]
	if c.Prefetched != full {
		w.t.Fatalf("prefetched: %v, but all slots are taken: %v", c.Prefetched, full)
	}
	if full {
		w.turns++
		w.ahead[c], w.turn[c] = true, w.turns
		if w.slots[worker] != 1 || w.on(worker, w.ahead) > MaxAhead || c.Stream || c.Open || c.NoPrefetch {
			w.t.Fatalf("sent ahead what must not be: %+v", c)
		}
		w.hosts(c, worker)
	} else {
		w.running[c] = true
	}
	if c.Life == nil {
		if worker.Draining {
			w.t.Fatalf("a call without a session on a draining worker")
		}
		return
	}
	w.ranInLife(c, worker)
}

// hosts checks what a call was sent behind.
func (w *world) hosts(c *Call, worker *Worker) {
	for _, of := range []map[*Call]bool{w.running, w.ahead} {
		for other := range of {
			if other != c && other.Worker == worker && (other.pace == nil || other.pace.samples < minSamples || other.pace.mean > w.d.settings.PrefetchBelow) {
				w.t.Fatalf("sent behind a call that is not known to be short")
			}
		}
	}
}

func (w *world) ranInLife(c *Call, worker *Worker) {
	for other := range w.running {
		if other != c && other.Life == c.Life && !w.ahead[c] && other.Worker == worker {
			w.t.Fatalf("two calls of one life at a time")
		}
	}
	token := w.d.Token(c)
	key := fmt.Sprint(token.Name, "/", token.Epoch)
	owner, known := w.owners[key]
	if known && owner != worker.ID {
		w.t.Fatalf("two owners of %s", key)
	}
	if !known && (worker.Draining || w.ahead[c]) {
		w.t.Fatalf("a new life on a draining worker, or on one without a free slot")
	}
	w.owners[key] = worker.ID
	if c.Token != nil && c.Token.Epoch != token.Epoch {
		w.t.Fatalf("a caller with a token was moved silently")
	}
	if last := w.began[c.Life]; last > w.order[c] && !w.retried[c] {
		w.t.Fatalf("calls of one life out of order")
	}
	w.began[c.Life] = max(w.began[c.Life], w.order[c])
	c.Life.SetOpened()
	if worker.Sessions() > w.d.settings.MaxPerWorker {
		w.t.Fatalf("%d sessions on one worker", worker.Sessions())
	}
}

// check what must hold between events.
func (w *world) check() {
	f := w.d.Facts()
	if f.Queued != len(w.waiting) || f.Running != len(w.running)+len(w.ahead) {
		w.t.Fatalf("dispatch counts %d queued, %d reserved; the model %d, %d and %d ahead",
			f.Queued, f.Running, len(w.waiting), len(w.running), len(w.ahead))
	}
	if w.d.recalls != len(w.recall) {
		w.t.Fatalf("dispatch waits for %d recalls, the model for %d", w.d.recalls, len(w.recall))
	}
	repeats := 0
	for c := range w.waiting {
		if w.retried[c] {
			repeats++
		}
	}
	// A new call may take the place of a repeat, by which the queue was too long: it gets no longer then.
	if f.Queued > max(w.d.settings.MaxLength+repeats, w.longest) {
		w.t.Fatalf("%d wait in a queue of %d", f.Queued, w.d.settings.MaxLength)
	}
	w.longest = f.Queued
	w.checkLives()
	w.checkWorkers(f)
}

// checkLives: one life a name, counted right.
func (w *world) checkLives() {
	queued, byName := map[*session.Life]int{}, map[string]*session.Life{}
	for _, of := range []map[*Call]bool{w.waiting, w.running, w.ahead} {
		for c := range of {
			if c.Life == nil || c.Life.Ended() {
				continue
			}
			if other := byName[c.Session]; other != nil && other != c.Life {
				w.t.Fatalf("two lives of %q at a time", c.Session)
			}
			byName[c.Session] = c.Life
			if w.waiting[c] {
				queued[c.Life]++
			}
		}
	}
	for c := range w.waiting {
		if l := c.Life; l != nil && (l.Queued() != queued[l] || l.Ended()) {
			w.t.Fatalf("life counts %d queued, the model %d; ended %v", l.Queued(), queued[l], l.Ended())
		}
	}
}

func (w *world) checkWorkers(f Facts) {
	ready, slots, free := 0, 0, 0
	for _, x := range w.d.order {
		running := w.on(x, w.running)
		if x.Running() != running || len(x.following) != w.on(x, w.ahead) {
			w.t.Fatalf("worker %d runs %d, the model %d", x.ID.Slot, x.Running(), running)
		}
		if w.ready[x] && !x.Draining {
			ready++
			slots += x.Slots
			free += max(x.Slots-running, 0)
		}
		if !w.ready[x] || running >= x.Slots {
			continue
		}
		for c := range w.waiting {
			if w.mayServe(x, c) {
				w.t.Fatalf("worker %d is free and call %d of %q waits", x.ID.Slot, w.order[c], c.Session)
			}
		}
	}
	if f.Ready != ready || f.Slots != slots || w.d.free != free {
		w.t.Fatalf("dispatch counts %d ready, %d slots, %d free; the model %d, %d, %d", f.Ready, f.Slots, w.d.free, ready, slots, free)
	}
	for c := range w.ahead {
		if !c.Prefetched {
			w.t.Fatalf("the slot of a call is its own, the model does not know why")
		}
	}
	w.checkSlots()
}

// checkSlots: at most one worker more than wanted beside those that scaling down drains; none drains for recycling before its replacement is ready.
func (w *world) checkSlots() {
	held := 0
	for i := range w.d.slots {
		if s := &w.d.slots[i]; s.wanted && (!s.victim || s.cause == session.CauseRecycled) {
			held++
		}
	}
	if held > w.d.wanted+1 && !w.d.draining {
		w.t.Fatalf("%d slots hold workers, %d are wanted", held, w.d.wanted)
	}
	for _, x := range w.d.order {
		if !x.Draining || w.drained[x] {
			continue
		}
		w.drained[x] = true
		late := w.now.Sub(w.d.recycling.since) >= time.Minute
		if s := &w.d.slots[x.ID.Slot]; s.victim && s.cause == session.CauseRecycled && w.d.ready < w.d.wanted && w.ready[x] && !late {
			w.t.Fatalf("worker %d drains while %d of %d are ready", x.ID.Slot, w.d.ready, w.d.wanted)
		}
	}
}

// mayServe says whether a free worker could run a waiting call.
func (w *world) mayServe(worker *Worker, c *Call) bool {
	if c.Life == nil {
		return !worker.Draining
	}
	for _, of := range []map[*Call]bool{w.running, w.ahead} {
		for r := range of {
			if r.Life == c.Life {
				return false
			}
		}
	}
	if o := c.Life.Owner(); o != nil {
		return o == worker.owner
	}
	return !worker.Draining && worker.Sessions() < w.d.settings.MaxPerWorker
}

// settleAll finishes everything and expects that nothing is left.
func (w *world) settleAll() {
	for len(w.waiting)+len(w.running)+len(w.ahead) > 0 {
		if c, ok := w.first(w.running); ok {
			w.leaves(c, false)
			w.d.Finished(c, w.now)
		} else if c, ok := w.first(w.ahead); ok {
			w.leaves(c, false)
			w.d.Abandon(c, w.now)
		}
		w.apply()
		if c, ok := w.first(w.waiting); ok {
			w.d.Expire(c, false, w.now)
			w.apply()
		}
		w.check()
	}
	w.d.Drain(w.now, w.now)
	w.apply()
	if f := w.d.Facts(); f.Running != 0 || f.Queued != 0 || f.Sessions != 0 || !f.Drained || w.d.recalls != 0 {
		w.t.Fatalf("left after a drain: %+v", f)
	}
	if slots := w.d.DesiredSlots(); len(slots) != 0 {
		w.t.Fatalf("slots wanted after a drain: %v", slots)
	}
	if len(w.d.spare) != len(w.d.lanes)-1 {
		w.t.Fatalf("%d lanes, %d of them spare", len(w.d.lanes)-1, len(w.d.spare))
	}
}

func (w *world) first(of map[*Call]bool) (*Call, bool) {
	var first *Call
	for c := range of {
		if first == nil || w.order[c] < w.order[first] {
			first = c
		}
	}
	return first, first != nil
}

// leaves takes a call off its worker in the model, before dispatch is told; the next one has the slot then.
func (w *world) leaves(c *Call, again bool) {
	delete(w.recall, c)
	if w.ahead[c] {
		delete(w.ahead, c)
	} else {
		delete(w.running, c)
		var next *Call
		for x := range w.ahead {
			if x.Worker == c.Worker && w.ready[c.Worker] && (next == nil || w.turn[x] < w.turn[next]) {
				next = x
			}
		}
		if next != nil {
			delete(w.ahead, next)
			delete(w.recall, next)
			w.running[next] = true
		}
	}
	if again {
		w.waiting[c], w.retried[c] = true, true
	}
}
