package datapath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	rpcv1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// soak is one long mixed load.
type soak struct {
	*stage
	end    time.Time
	calls  atomic.Int64
	told   atomic.Int64 // failures that the death of a worker explains, and that say so
	pids   chan int
	mu     sync.Mutex
	others map[string]int // any other failure
}

// TestS14Soak plays SOAK's length (such as 3m) of unary calls, sessions and streams, with a worker killed now and then: no failure but those that
// the kills explain, and nothing grows.
func TestS14Soak(t *testing.T) {
	const workers = 4
	length, err := time.ParseDuration(os.Getenv("SOAK"))
	if err != nil || length <= 0 {
		t.Skip("left out: it is long; to run it: SOAK=3m, or make soak")
	}
	stage := newStage(t, fmt.Sprintf("workers: %d\ncrash: {maxRestarts: 100}\n", workers))
	stage.expectReady(workers)
	s := &soak{stage: stage, end: time.Now().Add(length), pids: make(chan int, 16), others: map[string]int{}}
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() { s.unary(i) })
		group.Go(func() { s.sessions(i) })
	}
	group.Go(s.streams)
	group.Go(s.leavers)
	kills := 0
	group.Go(func() { kills = s.kill(max(length/20, 3*time.Second)) })
	looks := s.watch(max(length/160, time.Second))
	group.Wait()
	failures := 0
	for what, n := range s.others {
		failures += n
		t.Errorf("%d times: %s", n, what)
	}
	void := ""
	if rate := float64(s.calls.Load()) / length.Seconds(); rate < 50 || kills < 3 || len(looks) < 8 {
		void = fmt.Sprintf("%.0f calls/s, %d kills, %d looks; at least 50, 3 and 8 are wanted", rate, kills, len(looks))
	}
	report(t, "S14", void, 1, told("length", length.Seconds(), "s"), told("calls", float64(s.calls.Load()), "calls"), told("worker kills", float64(kills), "kills"),
		told("failures told by the kills", float64(s.told.Load()), "calls"), atMost("other failures", float64(failures), 0, "calls"),
		growth("goroutines", looks, func(l look) float64 { return l.goroutines }, 10, "goroutines"),
		growth("open files", looks, func(l look) float64 { return l.files }, 4, "files"),
		growth("RSS of the router", looks, func(l look) float64 { return l.rss / mebibyte }, 12, "MiB"),
		growth("PSS of the worker container", looks, func(l look) float64 { return l.pss / mebibyte }, 12, "MiB"))
	s.expectIdle()
}

// growth compares the medians of the last and of the second quarter; the first is for warming up.
func growth(name string, looks []look, of func(look) float64, tolerance float64, unit string) fixture.Figure {
	quarter := func(from, to int) float64 {
		var values []float64
		for _, l := range looks[from:to] {
			values = append(values, of(l))
		}
		return median(values)
	}
	n := len(looks)
	return atMost("growth from the second to the last quarter: "+name, quarter(3*n/4, n)-quarter(n/4, n/2), tolerance, unit)
}

// pace calls what it is given about every 20 ms until the end.
func (s *soak) pace(turn func(n int)) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for n := 0; time.Now().Before(s.end); n++ {
		turn(n)
		<-ticker.C
	}
}

// judge counts a call, and reports whether its answer is good.
func (s *soak) judge(what string, a answer) bool {
	s.calls.Add(1)
	switch {
	case a.err == nil:
		return true
	case (a.reason() == "WORKER_DIED" || a.reason() == "SESSION_LOST") && a.execution() != "":
		s.told.Add(1)
	default:
		s.mu.Lock()
		s.others[what+": "+a.err.Error()]++
		s.mu.Unlock()
	}
	return false
}

func (s *soak) unary(caller int) {
	sizes := []int{0, 100, 30 << 10, 300 << 10}
	s.pace(func(n int) {
		size := sizes[(n+caller)%len(sizes)]
		a := s.call("echo", arguments{"payload": data(make([]byte, size))})
		if s.judge("echo", a) && len(a.value.GetData()) != size {
			s.judge("echo", answer{err: fmt.Errorf("%d bytes came back of %d", len(a.value.GetData()), size)})
		}
	})
}

// sessions live for 50 calls, and are closed then.
func (s *soak) sessions(caller int) {
	name, token, count := "", "", int64(0)
	s.pace(func(n int) {
		if token == "" {
			name, count = fmt.Sprintf("soak-%d-%d", caller, n), 0
			token = s.count(name, &count, "snakepit-session-create", "true")
			return
		}
		if count < 50 {
			token = s.count(name, &count, "snakepit-session-token", token)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		ctx = metadata.AppendToOutgoingContext(ctx, "snakepit-session", name, "snakepit-session-token", token)
		_, err := s.client.CloseSession(ctx, &rpcv1.CloseSessionRequest{})
		s.judge("CloseSession", answer{err: err})
		token = ""
	})
}

// count calls once in a session and returns its token; none when its life is over.
func (s *soak) count(name string, count *int64, pairs ...string) (token string) {
	a := s.call("count", nil, append(pairs, "snakepit-session", name)...)
	if !s.judge("count", a) {
		return ""
	}
	if *count++; a.field("count") != *count {
		s.judge("count", answer{err: fmt.Errorf("counted %d, want %d", a.field("count"), *count)})
	}
	select {
	case s.pids <- int(a.field("pid")):
	default:
	}
	return a.token()
}

// streams are read to their end.
func (s *soak) streams() {
	s.pace(func(int) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		stream, err := s.client.ExecuteStream(ctx, &rpcv1.ExecuteRequest{Tool: "numbers", Arguments: arguments{"n": integer(20)}})
		got := 0
		for err == nil {
			if _, err = stream.Recv(); err == nil {
				got++
			}
		}
		if errors.Is(err, io.EOF) {
			if err = nil; got != 20 {
				err = fmt.Errorf("%d values of 20", got)
			}
		}
		s.judge("numbers", answer{err: err})
	})
}

// leavers give up in the middle of a stream, or of a call.
func (s *soak) leavers() {
	s.pace(func(n int) {
		ctx, cancel := context.WithCancel(context.Background())
		leave := time.AfterFunc(50*time.Millisecond, cancel)
		defer leave.Stop()
		var err error
		if n%2 == 0 {
			err = s.callIn(ctx, "sleep", arguments{"seconds": number(5)}).err
		} else {
			var stream interface {
				Recv() (*rpcv1.ExecuteStreamResponse, error)
			}
			stream, err = s.client.ExecuteStream(ctx, &rpcv1.ExecuteRequest{Tool: "flood", Arguments: arguments{"size": integer(1000)}})
			for err == nil {
				_, err = stream.Recv()
			}
		}
		if status.Code(err) == codes.Canceled {
			err = nil
		}
		s.judge("a call that is left", answer{err: err})
	})
}

// kill ends a worker that answered lately, now and then.
func (s *soak) kill(every time.Duration) (kills int) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for ; time.Now().Add(every).Before(s.end); <-ticker.C {
		for len(s.pids) > 0 { // what waits there is old
			<-s.pids
		}
		select {
		case pid := <-s.pids:
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				kills++
			}
		case <-time.After(every):
		}
	}
	return kills
}

// look is what the processes use at one time; memory in bytes.
type look struct{ goroutines, files, rss, pss float64 }

// watch looks until the end. A look that came while a process ended counts for nothing.
func (s *soak) watch(every time.Duration) (looks []look) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for ; time.Now().Before(s.end); <-ticker.C {
		l := look{s.value("go_goroutines"), s.value("process_open_fds"), s.value("process_resident_memory_bytes"), s.containerPSS()}
		if !math.IsNaN(l.goroutines + l.files + l.rss + l.pss) {
			looks = append(looks, l)
		}
	}
	return looks
}

// containerPSS sums what the supervisor and all below it use, in bytes; NaN when one of them ended meanwhile.
func (s *soak) containerPSS() (sum float64) {
	for _, pid := range family(s.supervisor.Process.Pid) {
		page, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
		_, rest, found := strings.Cut(string(page), "\nPss:")
		if err != nil || !found {
			return math.NaN()
		}
		kilobytes, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		if err != nil {
			return math.NaN()
		}
		sum += kilobytes * 1024
	}
	return sum
}

// family of a process: itself and all below it.
func family(root int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // fails on a bad pattern only
	parents := map[int]int{}
	for _, file := range stats {
		page, err := os.ReadFile(file)
		_, rest, found := strings.Cut(string(page), ") ")
		if fields := strings.Fields(rest); err == nil && found && len(fields) > 1 && fields[0] != "Z" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			parents[pid], _ = strconv.Atoi(fields[1])
		}
	}
	found := map[int]bool{root: true}
	for before := 0; before < len(found); {
		before = len(found)
		for pid, parent := range parents {
			if found[parent] {
				found[pid] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}
