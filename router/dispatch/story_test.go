package dispatch

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/snakepit-k8s/snakepit/router/session"
)

// story is a dispatcher with workers that are ready, and a record of what it asked for.
type story struct {
	t   *testing.T
	d   *Dispatcher
	now time.Time
	log []string
}

// tool is what calls are for unless a story says otherwise.
const tool = "tool"

func tell(t *testing.T, workers, slots int, change func(*Settings)) *story {
	t.Helper()
	s := Settings{Affinity: StrictQueue, Implicit: true, MaxPerWorker: 16, IdleTimeout: time.Hour, MaxLength: 100, PerSession: 50,
		QueueTimeout: 10 * time.Second, DrainTimeout: 30 * time.Second}
	if change != nil {
		change(&s)
	}
	st := &story{t: t, now: time.Unix(1_700_000_000, 0)}
	st.d = New("pod", s, st.now)
	st.d.Supervised(st.now)
	st.d.SetWanted(workers, st.now)
	for i := range workers {
		st.up(i, slots)
	}
	st.log = nil
	return st
}

func (s *story) up(slot, slots int) *Worker {
	w := s.d.Started(session.Worker{Slot: uint16(slot), Nonce: uint64(s.now.UnixNano()) + uint64(slot)}, nil)
	s.d.Up(w, slots, true, s.now)
	s.apply()
	return w
}

// quick makes calls short enough to be sent ahead.
func (s *story) quick() { s.takes(tool, 50*time.Microsecond) }

// takes has a tool known for how long it runs.
func (s *story) takes(tool string, mean time.Duration) {
	s.d.paces[tool] = &average{samples: 100, mean: mean}
}

func (s *story) apply() {
	for _, a := range s.d.Actions() {
		name := ""
		if a.Call != nil {
			name = a.Call.RequestID
		}
		switch a.Kind {
		case Run:
			verb := "run"
			if a.Call.Prefetched {
				verb = "ahead"
			}
			s.log = append(s.log, fmt.Sprintf("%s %s@%d", verb, name, a.Worker.ID.Slot))
		case Refuse:
			s.log = append(s.log, fmt.Sprintf("refuse %s %d", name, a.Refusal.Reason))
		case Close:
			s.log = append(s.log, fmt.Sprintf("close@%d", a.Worker.ID.Slot))
		case Desired:
			s.log = append(s.log, fmt.Sprint("desired ", s.d.DesiredSlots()))
		case Recall:
			s.log = append(s.log, fmt.Sprintf("recall %s@%d", name, a.Worker.ID.Slot))
		}
	}
}

func (s *story) admit(c Call) *Call { return s.admitTo(tool, c) }
func (s *story) admitTo(tool string, c Call) *Call {
	s.d.Aim(&c, tool)
	s.d.Admit(&c, s.now)
	s.apply()
	return &c
}

func (s *story) call(id string) *Call          { return s.admit(Call{RequestID: id}) }
func (s *story) in(session, id string) *Call   { return s.admit(Call{RequestID: id, Session: session}) }
func (s *story) accepted(c *Call)              { s.d.Accepted(c, s.now); s.apply() }
func (s *story) finished(c *Call)              { s.d.Finished(c, s.now); s.apply() }
func (s *story) after(d time.Duration) *story  { s.now = s.now.Add(d); return s }
func (s *story) tick()                         { s.d.Tick(s.now); s.apply() }
func (s *story) seconds(n int)                 { s.after(time.Duration(n) * time.Second).tick() }
func (s *story) worker(slot int) *Worker       { return s.d.bySlot[slot] }
func (s *story) gone(slot int)                 { s.d.Gone(s.worker(slot), session.CauseWorkerGone, s.now); s.apply() }
func (s *story) notStarted(c *Call, died bool) { s.d.NotStarted(c, died, s.now); s.apply() }

// expect compares what was asked for since the last look.
func (s *story) expect(want ...string) {
	s.t.Helper()
	if !slices.Equal(s.log, want) {
		s.t.Fatalf("got  %q\nwant %q", s.log, want)
	}
	s.log = nil
}

func TestASessionRunsOneCallAtATimeAndHoldsUpNobody(t *testing.T) {
	s := tell(t, 1, 3, nil)
	a1 := s.in("a", "a1")
	s.in("a", "a2")
	s.in("a", "a3")
	s.in("a", "a4")
	b1 := s.in("b", "b1")
	s.in("b", "b2")
	s.call("free")
	s.expect("run a1@0", "run b1@0", "run free@0")
	s.finished(b1)
	s.expect("run b2@0")
	s.finished(a1)
	s.expect("run a2@0")
}

func TestTheWorkerWithTheFewestSessionsGetsTheNextAndCallsSpread(t *testing.T) {
	s := tell(t, 3, 2, nil)
	s.finished(s.in("a", "a"))
	s.finished(s.in("b", "b"))
	s.finished(s.in("c", "c"))
	s.finished(s.in("d", "d"))
	s.expect("run a@0", "run b@1", "run c@2", "run d@0")
	for _, id := range []string{"1", "2", "3", "4", "5", "6", "7"} {
		s.call(id)
	}
	s.expect("run 1@1", "run 2@2", "run 3@0", "run 4@1", "run 5@2", "run 6@0")
}

func TestANewSessionGoesWhereTheFewestAreEvenIfCallsRunThere(t *testing.T) {
	s := tell(t, 2, 3, nil)
	s.finished(s.in("a", "a"))
	s.finished(s.in("b", "b"))
	s.finished(s.in("c", "c"))
	s.call("1")
	s.call("2")
	s.call("3")
	s.in("d", "d")
	s.expect("run a@0", "run b@1", "run c@0", "run 1@1", "run 2@0", "run 3@1", "run d@1")
}

// The call that was first in a session is given up; those behind it find a worker all the same.
func TestCallsBehindOneThatIsGivenUpGoOn(t *testing.T) {
	s := tell(t, 2, 1, nil)
	first := s.in("a", "a1")
	s.in("a", "a2")
	first.retries = maxRetries
	s.d.NotHeld(first, s.now)
	s.apply()
	s.expect("run a1@0", fmt.Sprintf("refuse a1 %d", WorkerDied), "run a2@0")
	second := s.worker(0).active.head
	s.in("b", "b1")
	s.in("a", "a3")
	s.expect("run b1@1")
	s.d.Down(s.worker(0)) // a free worker is another one than the one that refuses
	s.finished(s.worker(1).active.head)
	second.retries = maxRetries
	s.d.NotHeld(second, s.now)
	s.apply()
	s.expect(fmt.Sprintf("refuse a2 %d", WorkerDied), "run a3@1")
}

func TestACallIsSentAheadAndTakesTheSlot(t *testing.T) {
	s := tell(t, 1, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
	s.call("early")
	s.call("waits: nothing is known of service times")
	s.expect("run early@0")
	s = tell(t, 1, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
	s.quick()
	first := s.call("1")
	second := s.call("2")
	for i := 3; i <= MaxAhead+2; i++ { // one more than may be sent ahead
		s.call(fmt.Sprint(i))
	}
	s.expect("run 1@0", "ahead 2@0", "ahead 3@0", "ahead 4@0", "ahead 5@0", "ahead 6@0", "ahead 7@0", "ahead 8@0", "ahead 9@0")
	if !second.Prefetched || s.d.Facts().Running != MaxAhead+1 || s.worker(0).Running() != 1 {
		t.Fatal("the others are not ahead")
	}
	s.after(time.Millisecond).finished(first)
	s.expect("ahead 10@0")
	if second.Prefetched || !second.Began.Equal(s.now) || s.worker(0).Running() != 1 {
		t.Fatal("the slot is not the second's")
	}
}

// As many are sent ahead as run within PrefetchBelow, to each worker in turn.
func TestHowManyAreSentAhead(t *testing.T) {
	s := tell(t, 2, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
	s.takes(tool, 900*time.Microsecond)
	for i := range 7 {
		s.call(fmt.Sprint(i))
	}
	s.expect("run 0@0", "run 1@1", "ahead 2@0", "ahead 3@1", "ahead 4@0", "ahead 5@1")
	if s.d.Facts().Queued != 1 {
		t.Fatal("more is sent ahead than runs in 2 ms")
	}
}

func TestWhatIsNotSentAhead(t *testing.T) {
	for name, c := range map[string]Call{"stream": {Stream: true}, "open": {Open: true, Session: "s"}, "large": {NoPrefetch: true}, "new": {Session: "s"}} {
		s := tell(t, 1, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
		s.quick()
		s.call("1")
		c.RequestID = "2"
		s.admit(c)
		if s.expect("run 1@0"); s.d.Facts().Queued != 1 {
			t.Fatalf("%s: does not wait", name)
		}
	}
	for name, first := range map[string]Call{"behind a stream": {Stream: true}, "behind an OpenSession": {Open: true, Session: "s"}} {
		s := tell(t, 1, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
		s.quick()
		s.admit(first)
		if s.call("2"); s.d.Facts().Queued != 1 {
			t.Fatalf("%s: does not wait", name)
		}
	}
}

// A call of a session is sent behind the session's running call only once that was written, so that it cannot overtake it: one that is one frame is
// written when it gets its slot, of any other that is known when it has begun.
func TestACallOfTheRunningSessionIsSentAheadOnceTheFirstWasWritten(t *testing.T) {
	s := tell(t, 2, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
	s.quick()
	b1 := s.admit(Call{Session: "b", RequestID: "b1", NoPrefetch: true})
	s.in("b", "b2")
	s.expect("run b1@0")
	s.accepted(b1)
	s.expect("ahead b2@0")
	s.finished(b1)
	s.expect()

	a1 := s.in("a", "a1")
	s.in("a", "a2")
	s.in("a", "a3")
	s.expect("run a1@1", "ahead a2@1")
	s.accepted(a1)
	s.expect()
	s.after(time.Second).tick() // it can run nowhere else: it is not recalled
	s.expect()
	s.finished(a1)
	s.expect()
}

func TestAFreeWorkerHasCallsRecalled(t *testing.T) {
	s := tell(t, 2, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
	s.quick()
	long, short := s.call("long"), s.call("short")
	ahead := s.call("ahead")
	s.call("too")
	s.expect("run long@0", "run short@1", "ahead ahead@0", "ahead too@1")
	s.after(time.Millisecond).finished(short) // "too" has that slot now
	s.expect()
	too := s.d.bySlot[1].active.head
	s.after(time.Millisecond).finished(too)
	s.expect("recall ahead@0")
	s.d.Recalled(ahead, s.now)
	s.apply()
	s.expect("run ahead@1")
	s.finished(ahead)
	s.finished(long)
	if f := s.d.Facts(); f.Running != 0 || s.d.recalls != 0 || s.d.free != 2 {
		t.Fatalf("left: %+v, %d recalls", f, s.d.recalls)
	}
}

func TestARecallThatComesTooLateChangesNothing(t *testing.T) {
	s := tell(t, 2, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
	s.quick()
	first, other := s.call("1"), s.call("other")
	ahead := s.call("ahead")
	s.after(time.Millisecond).finished(other)
	s.expect("run 1@0", "run other@1", "ahead ahead@0", "recall ahead@0")
	s.finished(first)
	if s.d.recalls != 0 {
		t.Fatal("waits for the outcome of a recall whose call has a slot")
	}
	s.accepted(ahead)
	s.finished(ahead)
	if s.expect(); s.d.recalls != 0 || s.d.free != 2 {
		t.Fatalf("%d recalls, %d free", s.d.recalls, s.d.free)
	}
}

func TestNothingIsSentAheadToASuspectWorker(t *testing.T) {
	s := tell(t, 1, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
	s.quick()
	s.finished(s.in("a", "a1"))
	s.call("1")
	s.d.Down(s.worker(0))
	s.in("a", "a2")
	s.expect("run a1@0", "run 1@0")
}

// A call behind one that turned out to be long is taken back even while every other worker has enough to do.
func TestACallBehindALongOneIsRecalled(t *testing.T) {
	s := tell(t, 1, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
	s.quick()
	s.call("1")
	s.call("2")
	s.after(19 * time.Millisecond).tick()
	s.expect("run 1@0", "ahead 2@0")
	s.after(2 * time.Millisecond).tick()
	s.expect("recall 2@0")
}

func TestADeathIsNotHeldAgainstACallThatWasOnlySentAhead(t *testing.T) {
	s := tell(t, 1, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
	s.quick()
	first, ahead := s.call("1"), s.call("2")
	s.d.Down(s.worker(0))
	s.notStarted(first, true)
	s.notStarted(ahead, true)
	s.gone(0)
	if first.deaths != 1 || ahead.deaths != 0 || ahead.retries != 0 {
		t.Fatalf("deaths %d and %d, tries %d", first.deaths, ahead.deaths, ahead.retries)
	}
	s.expect("run 1@0", "ahead 2@0")
	s.up(0, 1)
	s.expect("run 1@0")
	s.d.Down(s.worker(0))
	s.notStarted(first, true)
	s.expect(fmt.Sprintf("refuse 1 %d", WorkerDied))
}

// A life that is taken from its worker while a call of it runs there goes to any worker once that call has ended, also when that worker is not free.
func TestALifeWithoutItsWorkerGoesOnElsewhere(t *testing.T) {
	s := tell(t, 1, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
	s.quick()
	first := s.in("a", "a1")
	s.call("other")
	second := s.in("a", "a2")
	s.expect("run a1@0", "ahead other@0", "ahead a2@0")
	s.d.NotHeld(second, s.now)
	s.apply()
	s.expect()
	s.d.SetWanted(2, s.now)
	s.up(1, 1)
	s.log = nil
	s.d.Abandon(first, s.now)
	s.apply()
	s.expect("run a2@1")
}
