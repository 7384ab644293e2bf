package dispatch

import (
	"container/heap"
	"fmt"
	"math/rand"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestRepeatsAreATenthOfTheCallsAndTen(t *testing.T) {
	s := tell(t, 1, 1, func(s *Settings) { s.MaxLength = 1000 })
	repeats := 0
	again := func() {
		c := s.call("x")
		s.notStarted(c, false)
		if c.at == reserved {
			repeats++
			s.finished(c)
		}
	}
	for range 500 {
		again()
	}
	if repeats < 60 || repeats > 65 { // 10 and 500 / 10, and 1 in 10 of those that these earned
		t.Fatalf("%d repeats of 500 calls", repeats)
	}
	s.after(10 * time.Second)
	before := repeats
	for range 50 {
		again()
	}
	if got := repeats - before; got < 10 || got > 16 {
		t.Fatalf("%d repeats of 50 calls after a pause", got)
	}
}

func TestRetryPlacesACallThatMayHaveRun(t *testing.T) {
	s := tell(t, 2, 1, nil)
	c := s.call("1")
	s.accepted(c)
	s.d.Down(s.worker(0))
	if !s.d.Retry(c, s.now) {
		t.Fatal("not repeated")
	}
	s.apply()
	s.expect("run 1@0", "run 1@1")
	if s.d.Retry(c, s.now) {
		t.Fatal("repeated on a second worker that died")
	}
	s.finished(c)
	if f := s.d.Facts(); f.Running != 0 || f.Queued != 0 {
		t.Fatalf("left: %+v", f)
	}
}

func TestATenantCannotFillTheQueueForOthers(t *testing.T) {
	s := tell(t, 1, 1, func(s *Settings) { s.MaxLength, s.Shares = 4, map[string]int{"paid": 3} })
	running := s.call("running")
	for i := range 4 {
		s.admit(Call{RequestID: fmt.Sprint("greedy", i), Tenant: "greedy"})
	}
	s.expect("run running@0")
	s.admit(Call{RequestID: "greedy4", Tenant: "greedy"})
	s.expect(fmt.Sprintf("refuse greedy4 %d", QueueFull))
	for i := range 4 {
		s.admit(Call{RequestID: fmt.Sprint("paid", i), Tenant: "paid"})
	}
	full := func(id string) string { return fmt.Sprintf("refuse %s %d", id, QueueFull) }
	s.expect(full("greedy3"), full("greedy2"), full("greedy1"), full("paid3"))
	for c := running; c != nil; c = s.worker(0).active.head {
		s.finished(c)
	}
	s.expect("run greedy0@0", "run paid0@0", "run paid1@0", "run paid2@0")
}

func TestBoundSessionsComeBeforeNewOnesWhichStillCome(t *testing.T) {
	s := tell(t, 1, 1, nil)
	c := s.in("old", "old0")
	s.in("new", "new")
	for i := 1; i < 30; i++ {
		s.in("old", fmt.Sprint("old", i))
	}
	at := 0
	for i := 0; i < 31; i++ {
		s.finished(c)
		if c = s.worker(0).active.head; c != nil && c.RequestID == "new" {
			at = i
		}
	}
	if at != starveAfter {
		t.Fatalf("the new session came after %d calls of the old one, want %d", at, starveAfter)
	}
}

func TestANewSessionGivesWayToABoundOneWhenTheQueueIsFull(t *testing.T) {
	s := tell(t, 1, 1, func(s *Settings) { s.MaxLength = 3 })
	c := s.in("old", "old0")
	for i := range 3 {
		s.in(fmt.Sprint("new", i), fmt.Sprint("new", i))
	}
	s.expect("run old0@0")
	s.in("old", "old1")
	s.in("new3", "new3")
	s.call("any")
	full := func(id string) string { return fmt.Sprintf("refuse %s %d", id, QueueFull) }
	s.expect(full("new2"), full("new3"), full("any"))
	s.finished(c)
	s.expect("run old1@0")
	for range 2 {
		s.finished(s.worker(0).active.head)
	}
	if f := s.d.Facts(); f.Queued != 0 || f.Running != 1 {
		t.Fatalf("%+v", f)
	}
}

func TestWhatCannotMeetItsDeadlineIsRefusedAtOnce(t *testing.T) {
	s := tell(t, 2, 1, nil)
	in := func(d time.Duration) *Call { return s.admit(Call{Deadline: s.now.Add(d)}) }
	s.call("a")
	s.call("b")
	if c := in(time.Millisecond); c.at != waiting {
		t.Fatal("refused without knowing how long calls take")
	}
	s.d.held = average{samples: minSamples, mean: 100 * time.Millisecond}
	if c := in(150 * time.Millisecond); c.refusal.Reason != DeadlineUnreachable || c.refusal.Wait < 100*time.Millisecond {
		t.Fatalf("%+v", c.refusal)
	}
	if c := in(time.Second); c.at != waiting {
		t.Fatalf("%+v", c.refusal)
	}
}

func TestACallWhoseDeadlinePassedTakesNoWorker(t *testing.T) {
	s := tell(t, 1, 1, nil)
	first := s.call("1")
	s.admit(Call{RequestID: "2", Deadline: s.now.Add(time.Second)})
	s.call("3")
	s.after(2 * time.Second).finished(first)
	s.expect("run 1@0", fmt.Sprintf("refuse 2 %d", DeadlinePassed), "run 3@0")
}

// arrival or end of a simulated call.
type event struct {
	at   time.Time
	from *source
	call *Call // that ends; nil: one arrives
}

type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any          { x := (*e)[len(*e)-1]; *e = (*e)[:len(*e)-1]; return x }

// source sends calls at so many times the capacity.
type source struct {
	tenant   string
	load     float64
	deadline time.Duration
	sessions int // that its calls are spread over; 0 for none
	sent     int
	good     int // that ended before their deadline
}

// simulate ten seconds of four workers. Arrivals are random; service times lie between 5 and 15 ms.
func simulate(t *testing.T, sources ...*source) { simulateBeside(t, 0, sources...) }

// simulateBeside does so while some of the workers are held by calls that last longer than that.
func simulateBeside(t *testing.T, held int, sources ...*source) {
	const workers, mean = 4, 10 * time.Millisecond
	s := tell(t, workers, 1, func(s *Settings) { s.MaxLength, s.PrefetchBelow = 1000, 2*time.Millisecond })
	random := rand.New(rand.NewSource(7))
	end := s.now.Add(10 * time.Second)
	todo := &events{}
	for range held {
		s.call("long")
	}
	for _, from := range sources {
		*todo = append(*todo, event{at: s.now, from: from})
	}
	for todo.Len() > 0 {
		e := heap.Pop(todo).(event)
		if s.now = e.at; s.now.After(end) {
			break
		}
		if f := e.from; e.call == nil {
			c := &Call{Deadline: s.now.Add(f.deadline), Tenant: f.tenant, Owner: f}
			if f.sessions > 0 {
				c.Session = fmt.Sprint(f.tenant, random.Intn(f.sessions))
			}
			f.sent++
			s.d.Admit(c, s.now)
			heap.Push(todo, event{at: s.now.Add(time.Duration(random.ExpFloat64() * float64(mean) / workers / f.load)), from: f})
		} else {
			if !s.now.After(e.call.Deadline) {
				f.good++
			}
			s.d.Finished(e.call, s.now)
		}
		for _, a := range s.d.Actions() {
			if a.Kind == Run {
				ends := s.now.Add(mean/2 + time.Duration(random.Int63n(int64(mean))))
				heap.Push(todo, event{ends, a.Call.Owner.(*source), a.Call})
			}
		}
	}
}

func TestGoodputStaysUnderOverload(t *testing.T) {
	for _, deadline := range []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, time.Second} {
		peak := 0
		for _, load := range []float64{0.8, 0.9, 1, 1.2} {
			from := &source{load: load, deadline: deadline}
			simulate(t, from)
			peak = max(peak, from.good)
		}
		for _, load := range []float64{2, 5} {
			from := &source{load: load, deadline: deadline}
			simulate(t, from)
			if t.Logf("deadline %v, load %v: %d in time, %d at the peak", deadline, load, from.good, peak); from.good*10 < peak*9 {
				t.Errorf("deadline %v, load %v: %d calls in time, %d at the peak", deadline, load, from.good, peak)
			}
		}
	}
}

// Workers that a very long call holds serve nobody else: what the others cannot do in time is refused early, so that they do only what is of use.
func TestGoodputStaysBesideVeryLongCalls(t *testing.T) {
	const deadline = 200 * time.Millisecond
	for held := 1; held <= 3; held++ {
		peak, share := 0, float64(4-held)/4
		for _, load := range []float64{0.9, 1, 1.2} {
			from := &source{load: load * share, deadline: deadline}
			simulateBeside(t, held, from)
			peak = max(peak, from.good)
		}
		from := &source{load: 5, deadline: deadline}
		simulateBeside(t, held, from)
		if t.Logf("%d of 4 held: %d in time, %d at the peak", held, from.good, peak); from.good*10 < peak*9 {
			t.Errorf("%d of 4 held: %d calls in time, %d at the peak", held, from.good, peak)
		}
	}
}

// One call of a minute does not make the router think that all calls last long, and when all do, it learns it.
func TestTheAverageFollowsWhatIsUsual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		usual := time.Duration(rapid.IntRange(1, 1000).Draw(t, "ms")) * time.Millisecond
		a := average{}
		for range 2 * minSamples {
			a.addUsual(usual)
		}
		a.addUsual(time.Duration(rapid.IntRange(1, 3600).Draw(t, "s")) * time.Second)
		if a.mean > 2*usual {
			t.Fatalf("one long call among those of %v: %v", usual, a.mean)
		}
		slow := time.Duration(rapid.IntRange(1, 100).Draw(t, "times")) * usual
		for range 100 {
			a.addUsual(slow)
		}
		if a.mean < slow*9/10 || a.mean > 2*slow {
			t.Fatalf("all of %v: %v", slow, a.mean)
		}
	})
}

// A caller with 100 times the calls does not starve another, whether they use sessions or not.
func TestACrowdDoesNotStarveOthers(t *testing.T) {
	for _, sessions := range []int{0, 8} {
		crowd := &source{tenant: "crowd", load: 10, deadline: time.Second, sessions: sessions}
		modest := &source{tenant: "modest", load: 0.1, deadline: time.Second, sessions: sessions}
		simulate(t, crowd, modest)
		t.Logf("%d sessions each: the crowd had %d of %d, the modest one %d of %d", sessions, crowd.good, crowd.sent, modest.good, modest.sent)
		if modest.good*100 < modest.sent*98 {
			t.Errorf("%d sessions each: the modest caller got %d of %d", sessions, modest.good, modest.sent)
		}
	}
}
