package dispatch

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/snakepit-k8s/snakepit/router/session"
)

// world drives a Dispatcher with random events and holds what must be true against a model of its own.
type world struct {
	t       *rapid.T
	d       *Dispatcher
	now     time.Time
	nonce   uint64
	waiting map[*Call]bool
	running map[*Call]bool
	tokens  []session.Token
	owners  map[string]session.Worker // (name, epoch) → owner, for ever
	started map[*session.Life]uint64  // the latest arrival that began in a life
	retried map[*Call]bool
	desired int
}

func settings() Settings {
	return Settings{Affinity: StrictQueue, MaxPerWorker: 3, IdleTimeout: 20 * time.Second, MaxLength: 6, PerSession: 3,
		QueueTimeout: 5 * time.Second, DrainTimeout: 4 * time.Second}
}

func newWorld(t *rapid.T, s Settings) *world {
	w := &world{t: t, now: time.Unix(1_700_000_000, 0), waiting: map[*Call]bool{}, running: map[*Call]bool{},
		owners: map[string]session.Worker{}, started: map[*session.Life]uint64{}, retried: map[*Call]bool{}}
	w.d = New("pod", s, w.now)
	w.d.Supervised(w.now)
	w.d.SetWanted(3, w.now)
	w.apply()
	return w
}

// apply carries out the actions and checks each.
func (w *world) apply() {
	for _, a := range append([]Action(nil), w.d.Actions()...) {
		switch a.Kind {
		case Run:
			w.ran(a.Call, a.Worker)
		case Refuse:
			if !w.waiting[a.Call] {
				w.t.Fatalf("refused a call that does not wait: %+v", a.Refusal)
			}
			delete(w.waiting, a.Call)
		case Desired:
			w.desired++
		}
	}
}

func (w *world) ran(c *Call, worker *Worker) {
	if !w.waiting[c] {
		w.t.Fatalf("ran a call that does not wait")
	}
	if worker.State != Ready {
		w.t.Fatalf("ran a call on a worker that is not ready")
	}
	if worker.Running() > worker.Slots {
		w.t.Fatalf("%d calls on %d slots", worker.Running(), worker.Slots)
	}
	for other := range w.running {
		if c.Life != nil && other.Life == c.Life && !c.Prefetched && other.Worker == worker {
			w.t.Fatalf("two calls of one life at a time")
		}
	}
	delete(w.waiting, c)
	w.running[c] = true
	if c.Life == nil {
		if worker.Draining {
			w.t.Fatalf("a call without a session on a draining worker")
		}
		return
	}
	w.ranInLife(c, worker)
}

func (w *world) ranInLife(c *Call, worker *Worker) {
	token := w.d.Token(c)
	key := fmt.Sprint(token.Name, "/", token.Epoch)
	if owner, ok := w.owners[key]; ok && owner != worker.ID {
		w.t.Fatalf("two owners of %s", key)
	}
	if _, ok := w.owners[key]; !ok && worker.Draining {
		w.t.Fatalf("a new life on a draining worker")
	}
	w.owners[key] = worker.ID
	if c.Token != nil && c.Token.Epoch != token.Epoch {
		w.t.Fatalf("a caller with a token was moved silently")
	}
	if last := w.started[c.Life]; last > c.item.Seq && !w.retried[c] {
		w.t.Fatalf("calls of one life out of order")
	}
	w.started[c.Life] = max(w.started[c.Life], c.item.Seq)
	c.Life.SetOpened()
	if worker.Sessions() > w.d.settings.MaxPerWorker {
		w.t.Fatalf("%d sessions on one worker", worker.Sessions())
	}
}

// check what must hold between events.
func (w *world) check() {
	f := w.d.Facts()
	if f.Queued != len(w.waiting) || f.Running != len(w.running) {
		w.t.Fatalf("dispatch counts %d queued, %d running; the model %d, %d", f.Queued, f.Running, len(w.waiting), len(w.running))
	}
	perLife := map[*session.Life]int{}
	for c := range w.waiting {
		if c.Life != nil {
			perLife[c.Life]++
		}
	}
	for l, n := range perLife {
		if l.Queued() != n || l.Ended() {
			w.t.Fatalf("life counts %d queued, the model %d; ended %v", l.Queued(), n, l.Ended())
		}
	}
	for _, worker := range w.d.workers {
		if worker.State != Ready || worker.Running() >= worker.Slots {
			continue
		}
		for c := range w.waiting {
			if w.mayServe(worker, c) {
				w.t.Fatalf("a free worker leaves a call waiting that it may serve")
			}
		}
	}
}

// mayServe says whether a free worker could run a waiting call.
func (w *world) mayServe(worker *Worker, c *Call) bool {
	if c.Life == nil {
		return !worker.Draining
	}
	for r := range w.running {
		if r.Life == c.Life {
			return false
		}
	}
	if o := c.Life.Owner(); o != nil {
		return o == worker.owner
	}
	return !worker.Draining && worker.Sessions() < w.d.settings.MaxPerWorker
}

func pick[K comparable](t *rapid.T, of map[K]bool, less func(a, b K) bool) (K, bool) {
	var keys []K
	for k := range of {
		at := len(keys)
		for at > 0 && less(k, keys[at-1]) {
			at--
		}
		keys = append(keys[:at], append([]K{k}, keys[at:]...)...)
	}
	var none K
	if len(keys) == 0 {
		return none, false
	}
	return keys[rapid.IntRange(0, len(keys)-1).Draw(t, "pick")], true
}

func bySeq(a, b *Call) bool { return a.item.Seq < b.item.Seq }

func (w *world) admit(t *rapid.T) {
	c := &Call{Session: rapid.SampledFrom([]string{"", "", "a", "b", "c", "d", "e"}).Draw(t, "session"),
		Create: rapid.Bool().Draw(t, "create"), Affinity: Affinity(rapid.IntRange(0, 3).Draw(t, "affinity")),
		Stream: rapid.IntRange(0, 5).Draw(t, "stream") == 0}
	if c.Session != "" && len(w.tokens) > 0 && rapid.Bool().Draw(t, "with token") {
		token := rapid.SampledFrom(w.tokens).Draw(t, "token")
		c.Token, c.Session = &token, token.Name
	}
	if rapid.IntRange(0, 3).Draw(t, "deadline") == 0 {
		c.Deadline = w.now.Add(time.Duration(rapid.IntRange(1, 8).Draw(t, "s")) * time.Second)
	}
	full := w.d.queued >= w.d.settings.MaxLength
	tenants := len(w.d.settings.Shares) > 0
	w.waiting[c] = true
	w.d.Admit(c, w.now)
	w.apply()
	if full && !tenants && w.waiting[c] {
		t.Fatalf("admitted to a full queue")
	}
	if c.Life != nil && c.Life.Queued() > w.d.settings.PerSession+1 { // and one that is repeated
		t.Fatalf("%d calls wait in one session", c.Life.Queued())
	}
}

// end takes a running call out; repeated ones wait again.
func (w *world) end(t *rapid.T, repeat bool, f func(c *Call)) {
	c, ok := pick(t, w.running, bySeq)
	if !ok {
		t.Skip("nothing runs")
	}
	delete(w.running, c)
	if repeat {
		w.waiting[c] = true
		w.retried[c] = true
	}
	f(c)
	w.apply()
}

func (w *world) worker(t *rapid.T, keep func(*Worker) bool) *Worker {
	all := map[*Worker]bool{}
	for _, x := range w.d.workers {
		if keep(x) {
			all[x] = true
		}
	}
	x, ok := pick(t, all, func(a, b *Worker) bool { return a.ID.Nonce < b.ID.Nonce })
	if !ok {
		t.Skip("no such worker")
	}
	return x
}

// breakLink ends what runs on the worker, as its connection does.
func (w *world) breakLink(x *Worker) {
	w.d.Down(x)
	w.apply()
	for c := range w.running {
		if c.Worker == x {
			delete(w.running, c)
			w.waiting[c], w.retried[c] = true, true
			w.d.NotStarted(c, true, w.now)
			w.apply()
		}
	}
}

func (w *world) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"":      func(*rapid.T) { w.check() },
		"admit": w.admit,
		"again": w.admit,
		"finish": func(t *rapid.T) {
			w.end(t, false, func(c *Call) {
				w.d.Accepted(c, w.now)
				if c.Life != nil && !c.Life.Ended() {
					w.tokens = append(w.tokens, w.d.Token(c))
				}
				w.d.Finished(c, w.now)
			})
		},
		"abandon":     func(t *rapid.T) { w.end(t, false, func(c *Call) { w.d.Abandon(c, w.now) }) },
		"not started": func(t *rapid.T) { w.end(t, true, func(c *Call) { w.d.NotStarted(c, false, w.now) }) },
		"not held":    func(t *rapid.T) { w.end(t, true, func(c *Call) { w.d.NotHeld(c, w.now) }) },
		"start failed": func(t *rapid.T) {
			w.end(t, false, func(c *Call) { w.d.StartFailed(c, w.now); w.d.Abandon(c, w.now) })
		},
		"expire": func(t *rapid.T) {
			if c, ok := pick(t, w.waiting, bySeq); ok && !w.d.Expire(c, rapid.Bool().Draw(t, "gone"), w.now) {
				t.Fatalf("a waiting call did not expire")
			}
			w.apply()
		},
		"start worker": func(t *rapid.T) {
			slots := w.d.DesiredSlots()
			for _, i := range slots {
				taken := false
				for _, x := range w.d.workers {
					taken = taken || uint32(x.ID.Slot) == i
				}
				if !taken {
					w.nonce++
					w.d.Started(session.Worker{Slot: uint16(i), Nonce: w.nonce}, nil)
					return
				}
			}
			t.Skip("every slot has a worker")
		},
		"up": func(t *rapid.T) {
			w.d.Up(w.worker(t, func(x *Worker) bool { return x.State != Ready && x.Running() == 0 }), 1, false, w.now)
			w.apply()
		},
		"down": func(t *rapid.T) { w.breakLink(w.worker(t, func(x *Worker) bool { return x.State == Ready })) },
		"gone": func(t *rapid.T) {
			x := w.worker(t, func(*Worker) bool { return true })
			w.breakLink(x)
			w.d.Gone(x, session.CauseWorkerGone, w.now)
			w.apply()
		},
		"gone before its link broke": func(t *rapid.T) {
			x := w.worker(t, func(*Worker) bool { return true })
			w.d.Gone(x, session.CauseWorkerGone, w.now)
			w.apply()
			w.breakLink(x)
		},
		"scale": func(t *rapid.T) { w.d.SetWanted(rapid.IntRange(0, 5).Draw(t, "workers"), w.now); w.apply() },
		"time": func(t *rapid.T) {
			w.now = w.now.Add(time.Duration(rapid.IntRange(1, 6000).Draw(t, "ms")) * time.Millisecond)
			w.d.Tick(w.now)
			w.apply()
		},
		"close": func(t *rapid.T) {
			c := &Call{Session: rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "session")}
			_, _ = w.d.Close(c, w.now)
			w.apply()
		},
	}
}

// finish everything and expect that nothing is left.
func (w *world) settleAll() {
	for len(w.waiting)+len(w.running) > 0 {
		for c := range w.running {
			delete(w.running, c)
			w.d.Finished(c, w.now)
			w.apply()
			break
		}
		for c := range w.waiting {
			w.d.Expire(c, false, w.now)
			w.apply()
			break
		}
		w.check()
	}
	w.d.Drain(w.now, w.now)
	w.apply()
	if f := w.d.Facts(); f.Running != 0 || f.Queued != 0 || f.Sessions != 0 || !f.Drained {
		w.t.Fatalf("left after a drain: %+v", f)
	}
	if slots := w.d.DesiredSlots(); len(slots) != 0 {
		w.t.Fatalf("slots wanted after a drain: %v", slots)
	}
}

func TestDispatchKeepsItsInvariants(t *testing.T) {
	for name, change := range map[string]func(*Settings){
		"strict queue": func(*Settings) {},
		"fail fast":    func(s *Settings) { s.Affinity = StrictFailFast },
		"hint":         func(s *Settings) { s.Affinity, s.Implicit = Hint, true },
		"implicit":     func(s *Settings) { s.Implicit = true },
	} {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			s := settings()
			change(&s)
			w := newWorld(t, s)
			t.Repeat(w.actions())
			w.settleAll()
		}))
	}
}
