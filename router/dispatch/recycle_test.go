package dispatch

import (
	"testing"
	"time"

	"github.com/snakepit-k8s/snakepit/router/dispatch/crash"
	"github.com/snakepit-k8s/snakepit/router/session"
)

func TestAReplacementIsReadyBeforeTheOldWorkerDrains(t *testing.T) {
	s := tell(t, 2, 1, nil)
	s.d.SetRecycle(Recycle{Deadline: 10 * time.Second})
	s.finished(s.in("a", "a1")) // worker 0 has a session
	s.log = nil
	s.d.RecycleWorkers("please", nil, s.now)
	s.d.RecycleWorkers("please", nil, s.now)
	s.apply()
	s.expect("desired [0 1 2]")
	s.up(2, 1) // worker 1 has no session: it goes first, and at once
	s.expect("desired [0 2]")
	s.seconds(1)
	s.expect() // one at a time: 1 is not gone
	s.gone(1)
	s.seconds(1)
	s.expect("desired [0 1 2]")
	s.up(1, 1)
	s.expect() // 0 drains
	s.in("a", "a2")
	s.in("b", "b1")
	s.expect("run a2@0", "run b1@1")
	s.finished(s.worker(0).active.head)
	s.seconds(10) // its session is lost
	s.expect("desired [1 2]")
	s.gone(0)
	s.seconds(1)
	if f := s.d.Facts(); f.RecycleLeft != 0 || f.Recycling || f.Ready != 2 || f.Lost[4] != 1 {
		t.Fatalf("%+v", f)
	}
	if c := s.in("a", "a3"); c.refusal.Loss.Cause != session.CauseRecycled {
		t.Fatalf("%+v", c.refusal)
	}
}

func TestARequestThatWasThereBeforeTheRouterIsNotRepeated(t *testing.T) {
	s := tell(t, 1, 1, nil)
	s.d.SkipRecycle("before")
	s.d.RecycleWorkers("before", nil, s.now)
	s.seconds(1)
	s.expect()
	s.d.RecycleWorkers("after", nil, s.now)
	s.apply()
	s.expect("desired [0 1]")
}

func TestAReplacementThatNeverStartsIsGivenUp(t *testing.T) {
	s := tell(t, 1, 1, nil)
	s.d.SetRecycle(Recycle{Deadline: 2 * time.Minute, MaxRequests: 1})
	s.finished(s.call("1"))
	s.seconds(1)
	s.seconds(119)
	s.expect("run 1@0", "desired [0 1]")
	s.seconds(1)
	s.expect("desired [0]")
	s.seconds(119)
	s.expect()
	s.seconds(1)
	s.expect("desired [0 1]")
}

func TestTheOldWorkerServesUntilAsManyAsAreWantedAreLeft(t *testing.T) {
	s := tell(t, 1, 1, nil)
	s.finished(s.in("a", "a1")) // so that it cannot go at once
	s.d.RecycleWorkers("please", nil, s.now)
	s.d.SetWanted(2, s.now)
	s.up(1, 1) // its replacement, but 2 is not there yet
	if s.worker(0).Draining {
		t.Fatal("drains while one of two is ready")
	}
	s.up(2, 1)
	if !s.worker(0).Draining {
		t.Fatal("does not drain")
	}
}

func TestScalingDownTakesTheWorkerThatWasToGoAnyway(t *testing.T) {
	s := tell(t, 2, 1, nil)
	s.finished(s.in("a", "a1"))
	s.log = nil
	s.d.RecycleWorkers("please", []uint32{0}, s.now)
	s.apply()
	s.expect("desired [0 1 2]")
	s.d.SetWanted(1, s.now)
	s.apply()
	s.expect("desired [0 1]")
	if w := s.worker(0); !w.Draining || s.worker(1).Draining {
		t.Fatal("another worker drains")
	}
}

func TestLimitsOfAWorkersLife(t *testing.T) {
	for name, c := range map[string]struct {
		r    Recycle
		push func(*story)
	}{
		"age":      {Recycle{MaxAge: time.Minute}, func(s *story) { s.after(time.Minute) }},
		"requests": {Recycle{MaxRequests: 2}, func(s *story) { s.finished(s.call("1")); s.finished(s.call("2")) }},
		"memory":   {Recycle{MaxMemory: 100}, func(s *story) { s.d.Usage(s.worker(0), 100, s.now) }},
	} {
		s := tell(t, 1, 1, nil)
		s.d.SetRecycle(c.r)
		s.seconds(1)
		if s.d.Facts().Recycling {
			t.Fatalf("%s: too early", name)
		}
		c.push(s)
		if s.tick(); !s.d.Facts().Recycling {
			t.Fatalf("%s: not recycled", name)
		}
	}
}

func TestJitterSpreadsTheLimitsAndKeepsEach(t *testing.T) {
	s := tell(t, 64, 1, nil)
	s.d.SetRecycle(Recycle{MaxAge: 100 * time.Second, Jitter: 0.5})
	due := func(seconds int) (n int) {
		for _, w := range s.d.order {
			if s.d.outlived(w, w.usage.since.Add(time.Duration(seconds)*time.Second)) {
				n++
			}
		}
		return n
	}
	if due(49) != 0 || due(151) != 64 || due(100) < 20 || due(100) > 44 {
		t.Fatalf("%d, %d, %d of 64 due", due(49), due(100), due(151))
	}
}

func TestDeathsInTheWindowAreACrashLoop(t *testing.T) {
	s := tell(t, 1, 1, func(s *Settings) { s.Crash = crash.Limits{MaxRestarts: 2, Window: time.Minute} })
	for i := range 3 {
		if s.d.Facts().CrashLooping {
			t.Fatalf("after %d deaths", i)
		}
		s.gone(0)
		s.after(time.Second)
		s.up(0, 1)
	}
	if !s.d.Facts().CrashLooping {
		t.Fatal("not noticed")
	}
	s.seconds(58)
	if s.d.Facts().CrashLooping {
		t.Fatal("not forgotten")
	}
	s.d.SetWanted(0, s.now)
	s.apply()
	for range 5 { // ends that were asked for are no deaths
		if w := s.worker(0); w != nil {
			s.gone(0)
		}
	}
	if s.d.Facts().CrashLooping {
		t.Fatal("a worker that was to end counts as a death")
	}
}
