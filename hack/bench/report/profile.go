package report

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// part is a name and what its frames look like.
type part struct {
	name   string
	frames *regexp.Regexp
}

// kinds of work, told by the first one that any frame of a stack shows; what shows none is plain computing.
var kinds = []part{
	{"GC", regexp.MustCompile(`^runtime\.(gcBgMarkWorker|gcAssistAlloc|bgsweep|bgscavenge|gcStart|gcMarkDone|sweepone)`)},
	{"stacks", regexp.MustCompile(`^runtime\.(newstack|copystack|morestack)`)},
	{"allocation", regexp.MustCompile(`^runtime\.(mallocgc|growslice|makeslice|newobject)`)},
	{"waking", regexp.MustCompile(`^runtime\.(futex|futexwakeup|wakep|ready|goready|notewakeup|startm|injectglist)`)},
	{"scheduling", regexp.MustCompile(`^runtime\.(schedule|findRunnable|mcall|park_m|gopark|netpoll|mstart|stopm|selectgo|lock2|unlock2|usleep|osyield)`)},
	{"system calls", regexp.MustCompile(`(^|/)(syscall|internal/runtime/syscall/?\w*|runtime/internal/syscall)\.(Syscall|RawSyscall|Syscall6|read|write|sendmsg|recvmsg)`)},
	{"copying", regexp.MustCompile(`^runtime\.(memmove|memclr)`)},
}

const plainKind = "computing"

// places of the program: the frame nearest to the leaf decides.
var places = []part{
	{"router/session", regexp.MustCompile(`/router/session\.`)},
	{"router/dispatch", regexp.MustCompile(`/router/dispatch\.`)},
	{"router/bridge", regexp.MustCompile(`/router/bridge\.`)},
	{"router/upstream", regexp.MustCompile(`/router/upstream\.`)},
	{"router/front", regexp.MustCompile(`/router/front\.`)},
	{"grpc-go", regexp.MustCompile(`^(google\.golang\.org/grpc|golang\.org/x/net)[/.]`)},
	{"protobuf", regexp.MustCompile(`^google\.golang\.org/protobuf`)},
	{"metrics", regexp.MustCompile(`^github\.com/prometheus/`)},
}

const elsewhere = "Go runtime"

// Profile reads the output of `go tool pprof -traces` and says, for each place of the program and kind of work, how many µs of CPU time a call took.
func Profile(traces string, calls float64) string {
	sums := map[string]map[string]time.Duration{}
	for _, s := range parseTraces(traces) {
		place, kind := s.place(), s.kind()
		if sums[place] == nil {
			sums[place] = map[string]time.Duration{}
		}
		sums[place][kind] += s.spent
	}
	names := []string{plainKind}
	for _, k := range kinds {
		names = append(names, k.name)
	}
	micros := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/max(calls, 1)) }
	rows := [][]string{slices.Concat([]string{""}, names, []string{"all"})}
	bottom := map[string]time.Duration{}
	add := func(name string, by map[string]time.Duration) {
		row, sum := []string{name}, time.Duration(0)
		for _, c := range names {
			row = append(row, micros(by[c]))
			sum += by[c]
		}
		rows = append(rows, append(row, micros(sum)))
	}
	for _, place := range slices.Sorted(maps.Keys(sums)) {
		add(place, sums[place])
		for kind, spent := range sums[place] {
			bottom[kind] += spent
		}
	}
	add("all", bottom)
	return columns(rows, tabwriter.AlignRight)
}

// stack of a profile, leaf first.
type stack struct {
	spent  time.Duration
	frames []string
}

// parseTraces reads blocks such as
//
//	-----------+-----
//	     10ms   runtime.futex
//	            runtime.futexwakeup
func parseTraces(text string) []stack {
	var stacks []stack
	begin := false
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "-----"):
			begin = true
		case len(fields) >= 2 && begin:
			spent, err := time.ParseDuration(fields[0])
			if err != nil {
				continue // a label of the samples
			}
			stacks, begin = append(stacks, stack{spent, []string{fields[1]}}), false
		case len(fields) >= 1 && len(stacks) > 0 && !begin:
			last := &stacks[len(stacks)-1]
			last.frames = append(last.frames, fields[0])
		}
	}
	return stacks
}

func (s stack) kind() string {
	for _, k := range kinds {
		if slices.ContainsFunc(s.frames, k.frames.MatchString) {
			return k.name
		}
	}
	return plainKind
}

func (s stack) place() string {
	for _, frame := range s.frames {
		for _, p := range places {
			if p.frames.MatchString(frame) {
				return p.name
			}
		}
	}
	return elsewhere
}
