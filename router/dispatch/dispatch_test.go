package dispatch

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/snakepit-k8s/snakepit/router/session"
)

// pick one of the calls, by arrival.
func (w *world) pick(t *rapid.T, of ...map[*Call]bool) (*Call, bool) {
	var all []*Call
	for _, m := range of {
		for c := range m {
			at := len(all)
			for at > 0 && w.order[c] < w.order[all[at-1]] {
				at--
			}
			all = append(all[:at], append([]*Call{c}, all[at:]...)...)
		}
	}
	if len(all) == 0 {
		return nil, false
	}
	return all[rapid.IntRange(0, len(all)-1).Draw(t, "pick")], true
}

func (w *world) admit(t *rapid.T) {
	c := &Call{Session: rapid.SampledFrom([]string{"", "", "a", "b", "c", "d", "e"}).Draw(t, "session"),
		Create: rapid.Bool().Draw(t, "create"), Affinity: Affinity(rapid.IntRange(0, 3).Draw(t, "affinity")),
		Stream: rapid.IntRange(0, 5).Draw(t, "stream") == 0, Tenant: rapid.SampledFrom([]string{"", "t", "u"}).Draw(t, "tenant"),
		NoPrefetch: rapid.IntRange(0, 9).Draw(t, "large") == 0}
	if c.Session != "" && len(w.tokens) > 0 && rapid.Bool().Draw(t, "with token") {
		token := rapid.SampledFrom(w.tokens).Draw(t, "token")
		c.Token, c.Session = &token, token.Name
	}
	if rapid.IntRange(0, 3).Draw(t, "deadline") == 0 {
		c.Deadline = w.now.Add(time.Duration(rapid.IntRange(1, 8).Draw(t, "s")) * time.Second)
	}
	w.arrived++
	w.order[c] = w.arrived
	w.waiting[c] = true
	w.d.Aim(c, rapid.SampledFrom([]string{"short", "short", "short", "long", "new", ""}).Draw(t, "tool"))
	w.d.Admit(c, w.now)
	w.apply()
	if c.Life != nil && c.Life.Queued() > w.d.settings.PerSession+2 { // and what is repeated
		t.Fatalf("%d calls wait in one session", c.Life.Queued())
	}
}

// end takes a call off its worker; repeated ones wait again.
func (w *world) end(t *rapid.T, repeat bool, f func(c *Call), of ...map[*Call]bool) {
	c, ok := w.pick(t, of...)
	if !ok {
		t.Skip("nothing runs")
	}
	w.leaves(c, repeat)
	f(c)
	w.apply()
}

func (w *world) worker(t *rapid.T, keep func(*Worker) bool) *Worker {
	var all []*Worker
	for _, x := range w.d.order {
		if keep(x) {
			all = append(all, x)
		}
	}
	if len(all) == 0 {
		t.Skip("no such worker")
	}
	return rapid.SampledFrom(all).Draw(t, "worker")
}

// breakLink ends what runs on the worker, as its connection does.
func (w *world) breakLink(t *rapid.T, x *Worker) {
	w.ready[x] = false
	w.d.Down(x)
	w.apply()
	for {
		var c *Call
		for _, of := range []map[*Call]bool{w.running, w.ahead} {
			for r := range of {
				if r.Worker == x && (c == nil || w.order[r] < w.order[c]) {
					c = r
				}
			}
		}
		if c == nil {
			return
		}
		accepted := c.accepted
		w.leaves(c, false)
		switch how := rapid.IntRange(0, 2).Draw(t, "end"); {
		case accepted && how == 0:
			w.d.Finished(c, w.now)
		case accepted:
			if w.waiting[c], w.retried[c] = true, true; !w.d.Retry(c, w.now) {
				delete(w.waiting, c)
				w.d.Finished(c, w.now)
			}
		default:
			w.waiting[c], w.retried[c] = true, true
			w.d.NotStarted(c, true, w.now)
		}
		w.apply()
	}
}

func (w *world) start(i uint32) bool {
	for _, x := range w.d.order {
		if uint32(x.ID.Slot) == i {
			return false
		}
	}
	w.nonce++
	w.d.Started(session.Worker{Slot: uint16(i), Nonce: w.nonce}, nil)
	return true
}

func (w *world) up(x *Worker, slots int) {
	w.ready[x], w.slots[x] = true, slots
	w.d.Up(x, slots, slots == 1, w.now)
	w.apply()
}

func (w *world) gone(x *Worker) {
	w.ready[x] = false
	w.d.Gone(x, session.CauseWorkerGone, w.now)
	w.apply()
}

func anyWorker(*Worker) bool { return true }

func (w *world) calls(slots int) map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"":      func(*rapid.T) { w.check() },
		"admit": w.admit,
		"again": w.admit,
		"more":  w.admit,
		"accept": func(t *rapid.T) {
			if c, ok := w.pick(t, w.running); ok {
				w.d.Accepted(c, w.now)
				w.apply()
			}
		},
		"finish": func(t *rapid.T) {
			c, ok := w.pick(t, w.running)
			if !ok {
				t.Skip("nothing runs")
			}
			if !c.accepted {
				w.d.Accepted(c, w.now)
				w.apply()
			}
			if c.Life != nil && !c.Life.Ended() {
				w.tokens = append(w.tokens, w.d.Token(c))
			}
			w.leaves(c, false)
			w.d.Finished(c, w.now)
			w.apply()
		},
		"abandon": func(t *rapid.T) { w.end(t, false, func(c *Call) { w.d.Abandon(c, w.now) }, w.running, w.ahead) },
		"not started": func(t *rapid.T) {
			w.end(t, true, func(c *Call) { w.d.NotStarted(c, false, w.now) }, w.running, w.ahead)
		},
		"not held": func(t *rapid.T) { w.end(t, true, func(c *Call) { w.d.NotHeld(c, w.now) }, w.running, w.ahead) },
		"recalled": func(t *rapid.T) { w.end(t, true, func(c *Call) { w.d.Recalled(c, w.now) }, w.recall) },
		"start failed": func(t *rapid.T) {
			w.end(t, false, func(c *Call) { w.d.StartFailed(c, w.now); w.d.Abandon(c, w.now) }, w.running)
		},
		"expire": func(t *rapid.T) {
			if c, ok := w.pick(t, w.waiting); ok && !w.d.Expire(c, rapid.Bool().Draw(t, "gone"), w.now) {
				t.Fatalf("a waiting call did not expire")
			}
			w.apply()
		},
		"time": func(t *rapid.T) {
			w.now = w.now.Add(time.Duration(rapid.IntRange(1, 6000).Draw(t, "ms")) * time.Millisecond)
			w.d.Tick(w.now)
			w.apply()
			if c := w.d.ahead.head; c != nil && w.d.free > w.d.recalls && w.now.Sub(c.Worker.active.head.Began) > w.d.usual(c.Worker.active.head)+recallCost {
				t.Fatalf("a worker is free, and a call waits behind another worker's")
			}
		},
		"moment": func(t *rapid.T) {
			w.now = w.now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "us")) * time.Microsecond)
		},
		"close": func(t *rapid.T) {
			c := &Call{Session: rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "session")}
			_, _ = w.d.Close(c, w.now)
			w.apply()
		},
		"up": func(t *rapid.T) {
			w.up(w.worker(t, func(x *Worker) bool { return !w.ready[x] && w.on(x, w.running)+w.on(x, w.ahead) == 0 }), slots)
		},
	}
}

func (w *world) workers() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"start worker": func(t *rapid.T) {
			for _, i := range w.d.DesiredSlots() {
				if w.start(i) {
					return
				}
			}
			t.Skip("every slot has a worker")
		},
		"down": func(t *rapid.T) { w.breakLink(t, w.worker(t, func(x *Worker) bool { return w.ready[x] })) },
		"suspect": func(t *rapid.T) { // its calls end later
			x := w.worker(t, func(x *Worker) bool { return w.ready[x] })
			w.ready[x] = false
			w.d.Down(x)
			w.apply()
		},
		"gone": func(t *rapid.T) {
			x := w.worker(t, anyWorker)
			w.breakLink(t, x)
			w.gone(x)
		},
		"gone before its link broke": func(t *rapid.T) {
			x := w.worker(t, anyWorker)
			w.gone(x)
			w.breakLink(t, x)
		},
		"scale": func(t *rapid.T) { w.d.SetWanted(rapid.IntRange(0, 5).Draw(t, "workers"), w.now); w.apply() },
		"recycle": func(t *rapid.T) {
			var slots []uint32
			if rapid.Bool().Draw(t, "one") {
				slots = []uint32{uint32(rapid.IntRange(0, 4).Draw(t, "slot"))}
			}
			w.d.RecycleWorkers(rapid.StringN(1, 8, 8).Draw(t, "request"), slots, w.now)
			w.apply()
		},
		"usage": func(t *rapid.T) {
			w.d.Usage(w.worker(t, anyWorker), rapid.Uint64Range(0, 2<<30).Draw(t, "bytes"), w.now)
		},
	}
}

func (w *world) actions(slots int) map[string]func(*rapid.T) {
	all := w.calls(slots)
	for name, f := range w.workers() {
		all[name] = f
	}
	return all
}

func TestDispatchKeepsItsInvariants(t *testing.T) {
	for name, change := range map[string]func(*Settings){
		"strict queue": func(*Settings) {},
		"fail fast":    func(s *Settings) { s.Affinity = StrictFailFast },
		"hint":         func(s *Settings) { s.Affinity, s.Implicit = Hint, true },
		"implicit":     func(s *Settings) { s.Implicit = true },
		"prefetch":     func(s *Settings) { s.Implicit, s.PrefetchBelow = true, time.Hour },
		"short":        func(s *Settings) { s.Implicit, s.PrefetchBelow = true, 2*time.Millisecond },
		"hint ahead":   func(s *Settings) { s.Affinity, s.Implicit, s.PrefetchBelow = Hint, true, time.Hour },
		"shares":       func(s *Settings) { s.Implicit, s.Shares = true, map[string]int{"t": 3, "u": 1000} },
	} {
		for _, slots := range []int{1, 3} {
			t.Run(name+map[int]string{1: "", 3: ", three slots"}[slots], rapid.MakeCheck(func(t *rapid.T) {
				s := settings()
				change(&s)
				w := newWorld(t, s)
				t.Repeat(w.actions(slots))
				w.settleAll()
			}))
		}
	}
}

// Whatever happened, scaling, deaths and recycling in any order: once nothing more happens, every wanted worker is ready, no other is left, and every
// worker that a request named is a new process.
func TestScalingAndRecyclingEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := settings()
		s.Implicit = true
		w := newWorld(t, s)
		t.Repeat(w.actions(1))
		old := map[*Worker]bool{}
		if rapid.Bool().Draw(t, "at the end") {
			w.d.RecycleWorkers("at the end", nil, w.now)
			w.apply()
			for _, x := range w.d.order {
				old[x] = w.d.slots[x.ID.Slot].wanted
			}
		}
		for range 400 {
			for c, ok := w.first(w.running); ok; c, ok = w.first(w.running) {
				w.leaves(c, false)
				w.d.Finished(c, w.now)
				w.apply()
			}
			desired := map[uint16]bool{}
			for _, i := range w.d.DesiredSlots() {
				desired[uint16(i)] = true
				w.start(i)
			}
			for _, x := range append([]*Worker(nil), w.d.order...) {
				if !desired[x.ID.Slot] {
					w.breakLink(t, x)
					w.gone(x)
				} else if !w.ready[x] {
					w.up(x, 1)
				}
			}
			w.now = w.now.Add(time.Second)
			w.d.Tick(w.now)
			w.apply()
			w.check()
		}
		f := w.d.Facts()
		if f.Ready != f.Wanted || len(w.d.order) != f.Wanted || f.Recycling || f.RecycleLeft != 0 {
			t.Fatalf("%d workers in the end: %+v", len(w.d.order), f)
		}
		for _, x := range w.d.order {
			if old[x] {
				t.Fatalf("worker %d was not recycled", x.ID.Slot)
			}
		}
	})
}
