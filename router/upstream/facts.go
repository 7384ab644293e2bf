package upstream

import (
	"sort"
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/dispatch"
)

// Facts are what the status of the group says.
type Facts struct {
	dispatch.Facts
	// Ready: a worker has been ready once, or none is wanted and the supervisor is connected.
	Ready        bool
	SessionsLost uint64
	Adapter      *bridgev1.AdapterState // nil before the supervisor told
	Slots        []SlotFacts            // that exist or are wanted, ascending
	Failing      int                    // slots whose last process ended before it was ready
}

// SlotFacts is one slot.
type SlotFacts struct {
	Slot      int
	Nonce     uint64 // of its process; 0 without one
	State     string // Starting, Ready, Draining, Suspect, Failed
	Restarts  int
	LastError string
	LastExit  Exit // of its last process
}

// Exit says how a worker's process ended.
type Exit struct {
	Cause  string // empty: none ended yet
	Code   int
	Signal int
	// Output is the last line of what it wrote; it may carry data of users.
	Output string
	At     time.Time
}

// Facts reads what the status says.
func (p *Pool) Facts() Facts {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := Facts{Facts: p.d.Facts(), Adapter: p.adapter}
	f.Ready = p.ready || f.Wanted == 0 && p.attached
	for _, n := range f.Lost {
		f.SessionsLost += n
	}
	bySlot := map[int]*dispatch.Worker{}
	p.d.Workers(func(w *dispatch.Worker) { bySlot[int(w.ID.Slot)] = w })
	for i := 0; i < dispatch.MaxSlots; i++ {
		wanted, _ := p.d.Slot(i)
		w := bySlot[i]
		if !wanted && w == nil {
			continue
		}
		h := p.slots[i]
		s := SlotFacts{Slot: i, State: "Starting", Restarts: h.restarts, LastError: h.lastError, LastExit: h.lastExit}
		if w != nil {
			s.Nonce = w.ID.Nonce
			s.State = stateOf(w)
		} else if h.restarts > 0 {
			s.State = "Failed"
		}
		if h.failing && wanted {
			f.Failing++
		}
		f.Slots = append(f.Slots, s)
	}
	sort.Slice(f.Slots, func(i, j int) bool { return f.Slots[i].Slot < f.Slots[j].Slot })
	return f
}

func stateOf(w *dispatch.Worker) string {
	switch {
	case w.State == dispatch.Suspect:
		return "Suspect"
	case w.Draining:
		return "Draining"
	case w.State == dispatch.Ready:
		return "Ready"
	}
	return "Starting"
}

// AnyReady says whether a worker is ready now.
func (p *Pool) AnyReady() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.d.Ready() > 0
}

// maxLines bounds what is told of a worker's last words.
const maxLines = 20

// lastLines is what a worker wrote last, oldest line first, as its supervisor kept it.
func lastLines(e *bridgev1.WorkerExited) []string {
	kept := e.GetLastLines()
	kept = kept[max(0, len(kept)-maxLines):]
	lines := make([]string, 0, len(kept))
	for _, line := range kept {
		lines = append(lines, clean(line, 256))
	}
	return lines
}

func exitOf(cause string, e *bridgev1.WorkerExited, at time.Time) Exit {
	exit := Exit{Cause: clean(cause, 64), Signal: int(e.GetSignal()), Output: clean(e.GetLastOutput(), 256), At: at}
	if exit.Signal == 0 {
		exit.Code = int(e.GetExitCode())
	}
	return exit
}
