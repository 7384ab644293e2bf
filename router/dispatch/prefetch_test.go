package dispatch

import (
	"fmt"
	"testing"
	"time"
)

// Each tool has its own average: behind a call that is not known to be short nothing is sent, whatever else the pool runs. It may itself be sent
// behind short ones.
func TestNothingIsSentBehindAToolThatIsNotKnownToBeShort(t *testing.T) {
	for _, other := range []string{"long", "new", ""} {
		t.Run(other, func(t *testing.T) {
			s := tell(t, 2, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
			s.quick()
			s.takes("long", time.Second)
			burns := s.admitTo(other, Call{RequestID: "burns"})
			s.call("1")
			s.call("2")
			s.expect("run burns@0", "run 1@1", "ahead 2@1")
			s.admitTo(other, Call{RequestID: "burns too"})
			s.call("3")
			s.expect("ahead burns too@1")
			s.finished(burns)
			s.expect("run 3@0")
		})
	}
}

// A tool is known to be short once minSamples calls of it were, and known again to be none after one that was long.
func TestAToolBecomesKnown(t *testing.T) {
	s := tell(t, 1, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
	for i := range minSamples {
		c := s.call(fmt.Sprint(i))
		if s.call("x"); s.d.Facts().Queued != 1 {
			t.Fatalf("sent ahead after %d calls", i)
		}
		x := s.d.anyone.Head().Value.(*Call)
		s.d.Expire(x, true, s.now)
		s.after(50 * time.Microsecond).finished(c)
	}
	s.log = nil
	long := s.call("long")
	next := s.call("next")
	s.expect("run long@0", "ahead next@0")
	s.after(time.Second).finished(long)
	s.call("waits")
	if s.expect(); next.Prefetched || s.d.Facts().Queued != 1 {
		t.Fatal("sent behind a call of a tool that was long")
	}
}

// What a caller sends late, its tool included, is known from then on.
func TestAToolThatIsToldLate(t *testing.T) {
	s := tell(t, 1, 1, func(s *Settings) { s.PrefetchBelow = 2 * time.Millisecond })
	s.quick()
	late := s.admitTo("", Call{RequestID: "late", NoPrefetch: true})
	s.call("1")
	s.expect("run late@0")
	s.d.Aim(late, tool)
	s.call("2")
	s.expect("ahead 1@0")
}

// Names of tools come from callers. Only those count that a worker ran, and not without end.
func TestNamesOfToolsAreBounded(t *testing.T) {
	s := tell(t, 1, 1, nil)
	c := s.admitTo("unknown", Call{})
	s.d.Abandon(c, s.now)
	if len(s.d.paces) != 0 {
		t.Fatal("a tool that nothing ran is remembered")
	}
	for i := range 2 * maxPaces {
		s.finished(s.admitTo(fmt.Sprint(i), Call{}))
	}
	if len(s.d.paces) != maxPaces {
		t.Fatalf("%d tools are remembered", len(s.d.paces))
	}
}
