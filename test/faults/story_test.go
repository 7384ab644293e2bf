package faults

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// story is what happened at one point, in order, for whoever has to understand a failure.
type story struct {
	mu      sync.Mutex
	started time.Time
	lines   []string
	// panics that the operator's log told of.
	panics []string
}

func newStory() *story { return &story{started: time.Now()} }

func (s *story) tell(who, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf("%6d ms  %-8s  %s", time.Since(s.started).Milliseconds(), who, fmt.Sprintf(format, args...)))
}

// log takes the operator's log. Only panics are kept: the writes tell the rest.
func (s *story) log(prefix, args string) {
	if !strings.Contains(args, "panic") {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.panics = append(s.panics, prefix+" "+args)
}

func (s *story) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

func (s *story) sawPanic() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.panics
}
