package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	rpcv1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
)

// calm keeps deaths that a test causes from being held against the pool.
const calm = "crash: {maxRestarts: 1000, backoff: 10ms, maxBackoff: 100ms}\n"

func mark(key string) arguments { return arguments{"key": text(key)} }

// expectAnswer checks what the caller was told, and that the key's handler began so often.
func (s *stage) expectAnswer(what, key string, a answer, code codes.Code, execution string, marks int) bool {
	s.t.Helper()
	got, ran := status.Code(a.err), s.marks()[key]
	if got == code && a.execution() == execution && ran == marks {
		return true
	}
	s.t.Errorf("%s: told %v %s %s (%v) after %d runs, want %v %s after %d", what, got, a.reason(), a.execution(), a.err, ran, code, execution, marks)
	return false
}

// place is where a connection is cut, and what the caller must be told.
type place struct {
	name      string
	cut       cut
	tool      string
	arguments arguments
	code      codes.Code
	execution string
	runs      int
}

func places() []place {
	big := arguments{"payload": data(make([]byte, 600<<10))}
	return []place{
		{"before the request", cut{kind: bridge.KindCall}, "mark", nil, codes.OK, "", 1},
		{"mid-request, in its first frame", cut{kind: bridge.KindCall, half: true}, "mark", nil, codes.OK, "", 1},
		{"mid-request, in its second frame", cut{kind: bridge.KindMessage, half: true, accepted: true}, "swallow", big, codes.Aborted, "MAYBE_EXECUTED", 0},
		{"after Accepted", cut{fromWorker: true, kind: bridge.KindAccepted, whole: true}, "mark", arguments{"seconds": number(0.1)}, codes.Aborted, "MAYBE_EXECUTED", 1},
		{"before the reply", cut{fromWorker: true, kind: bridge.KindFinish}, "mark", nil, codes.Aborted, "MAYBE_EXECUTED", 1},
		{"mid-reply", cut{fromWorker: true, kind: bridge.KindFinish, half: true}, "mark", nil, codes.Aborted, "MAYBE_EXECUTED", 1},
		{"nowhere, and the handler raises", cut{}, "reject", nil, codes.Unknown, "FAILED", 1},
	}
}

// TestS6CutAtEveryPlace cuts the worker's connection at every place of a call, and checks what the caller is told and how often the handler ran.
func TestS6CutAtEveryPlace(t *testing.T) {
	const rounds, workers = 3, 2
	c := newCable(t)
	s := newStage(t, fmt.Sprintf("workers: %d\n", workers)+calm, c.env())
	c.lead(s.socket())
	s.expectReady(workers)
	wrong, duplicates, safe, recovered, cuts := 0, 0, 0, 0, 0
	for round := range rounds {
		for i, p := range places() {
			key := fmt.Sprintf("s6-%d-%d", round, i)
			args := mark(key)
			for name, value := range p.arguments {
				args[name] = value
			}
			if p.cut.kind != 0 {
				c.arm(&p.cut)
				cuts++
			}
			a := s.call(p.tool, args, "snakepit-request-id", key)
			if c.left() != 0 {
				t.Fatalf("%s: it was not cut", p.name)
			}
			if p.runs > 0 {
				s.expectMark(key)
			}
			s.expectReady(workers) // and the handler of a broken call has returned
			if !s.expectAnswer(p.name, key, a, p.code, p.execution, p.runs) {
				wrong++
			}
			if p.code == codes.OK {
				safe++
				if a.err == nil {
					recovered++
				}
			}
		}
	}
	for _, n := range s.marks() {
		duplicates += n - 1
	}
	report(t, "S6", "", rounds, told("cuts", float64(cuts), "cuts"), atMost("wrongly classified", float64(wrong), 0, "calls"),
		atMost("duplicates", float64(duplicates), 0, "calls"), atLeast("recovered of the safe ones", float64(recovered)/float64(safe), 1, "of 1"))
	s.expectIdle()
}

// expectMark waits until the key's handler began: the caller may know of a cut before.
func (s *stage) expectMark(key string) {
	s.t.Helper()
	eventually(s.t, "the handler of "+key, func() error {
		if s.marks()[key] == 0 {
			return errors.New("it did not begin")
		}
		return nil
	})
}

// TestS6MidStream cuts streams between two values: the caller is told how many it got.
func TestS6MidStream(t *testing.T) {
	const rounds = 4
	c := newCable(t)
	s := newStage(t, "workers: 1\n"+calm, c.env())
	c.lead(s.socket())
	s.expectReady(1)
	wrong := 0
	for round := range rounds {
		key := fmt.Sprint("stream-", round)
		c.arm(&cut{fromWorker: true, kind: bridge.KindMessage, pass: round * 3, half: round%2 == 1})
		got, err := s.stream("mark_numbers", arguments{"key": text(key), "n": integer(20), "pause": number(0.005)})
		a := answer{err: err}
		delivered := a.info().GetMetadata()["delivered"]
		if !s.expectAnswer(key, key, a, codes.Aborted, "MAYBE_EXECUTED", 1) || delivered != strconv.Itoa(got) || got != round*3 {
			t.Errorf("stream cut after %d values: %d came, %q told", round*3, got, delivered)
			wrong++
		}
		s.expectReady(1)
	}
	report(t, "S6", "", rounds, atMost("streams told wrongly", float64(wrong), 0, "streams"))
	s.expectIdle()
}

// stream reads a stream to its end, and returns the number of values and the error, nil for a good end.
func (s *stage) stream(tool string, args arguments) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	stream, err := s.client.ExecuteStream(ctx, &rpcv1.ExecuteRequest{Tool: tool, Arguments: args})
	for n := 0; err == nil; n++ {
		if _, err = stream.Recv(); errors.Is(err, io.EOF) {
			return n, nil
		} else if err != nil {
			return n, err
		}
	}
	return 0, err
}

// TestS6RepeatsAreBounded cuts every try of a call: it is tried at most three times, and was never begun.
func TestS6RepeatsAreBounded(t *testing.T) {
	const calls = 4
	c := newCable(t)
	s := newStage(t, "workers: 2\n"+calm, c.env())
	c.lead(s.socket())
	s.expectReady(2)
	most, wrong := 0, 0
	for i := range calls {
		key := fmt.Sprint("hopeless-", i)
		all := make([]*cut, 8)
		for k := range all {
			all[k] = &cut{kind: bridge.KindCall}
		}
		c.arm(all...)
		a := s.call("mark", mark(key))
		most = max(most, len(all)-c.left())
		c.disarm()
		s.expectReady(2)
		if !s.expectAnswer(key, key, a, codes.Unavailable, "NOT_STARTED", 0) || a.reason() != "WORKER_DIED" {
			wrong++
		}
	}
	report(t, "S6b", "", calls, atMost("tries of one call", float64(most), 3, "tries"), atMost("wrongly classified", float64(wrong), 0, "calls"))
	s.expectIdle()
}

// TestS6bDeathsOfWorkers kills workers in the handler, while they decode, and beside a process that holds what they had open.
func TestS6bDeathsOfWorkers(t *testing.T) {
	const rounds, workers = 3, 2
	s := newStage(t, fmt.Sprintf("workers: %d\n", workers)+calm)
	s.expectReady(workers)
	wrong, slowest := 0, time.Duration(0)
	for round := range rounds {
		key := fmt.Sprint("dies-", round)
		if !s.expectAnswer("killed after Accepted", key, s.call("die", mark(key)), codes.Aborted, "MAYBE_EXECUTED", 1) {
			wrong++
		}
		s.expectReady(workers)
		before := s.total("snakepit_worker_restarts_total")
		deadly := &rpcv1.Value{Kind: &rpcv1.Value_Map{Map: &rpcv1.MapValue{}}}
		a := s.call("decode_and_die", arguments{"payload": deadly}, "snakepit-request-id", key)
		if !s.expectAnswer("killed while it decoded", "decoded", a, codes.Aborted, "MAYBE_EXECUTED", 0) {
			wrong++
		}
		s.expectReady(workers)
		if deaths := s.total("snakepit_worker_restarts_total") - before; deaths != 1 {
			t.Errorf("a payload that kills ended %d workers", deaths)
			wrong++
		}
		took, ok := s.deathSeen(fmt.Sprint("holds-", round))
		slowest = max(slowest, took)
		if !ok {
			wrong++
		}
		s.expectReady(workers)
	}
	report(t, "S6b", "", rounds, atMost("wrongly classified after a death", float64(wrong), 0, "calls"),
		byClock(atMost("death seen, grandchild holds the socket, slowest", slowest.Seconds(), 1, "s")))
	s.expectIdle()
}

// TestS6bDeathsAmongCallsAhead kills workers that have calls lying unread in their sockets, and checks each caller's word against the journal.
func TestS6bDeathsAmongCallsAhead(t *testing.T) {
	const workers, callers, length = 2, 24, 5 * time.Second
	s := newStage(t, fmt.Sprintf("workers: %d\nqueue: {timeout: 20s}\n", workers)+calm)
	s.expectReady(workers)
	words := map[string]answer{}
	var mu sync.Mutex
	var group sync.WaitGroup
	end := time.Now().Add(length)
	for i := range callers {
		group.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				key := fmt.Sprintf("ahead-%d-%d", i, n)
				a := s.call("mark", mark(key))
				mu.Lock()
				words[key] = a
				mu.Unlock()
			}
		})
	}
	kills := 0
	for ; time.Now().Before(end); time.Sleep(150 * time.Millisecond) { // of load between two kills
		if a := s.call("die", mark(fmt.Sprint("killer-", kills))); a.execution() == "MAYBE_EXECUTED" {
			kills++
		}
	}
	group.Wait()
	marks, wrong, duplicates, doubtful, refused := s.marks(), 0, 0, 0, 0
	for key, a := range words {
		n := marks[key]
		duplicates += max(n-1, 0)
		fits := a.err == nil && n == 1
		switch a.execution() {
		case "MAYBE_EXECUTED":
			doubtful++
			fits = n <= 1
		case "NOT_STARTED":
			refused++
			fits = n == 0
		}
		if !fits {
			wrong++
			t.Errorf("%s began %d times, and was told %v", key, n, a.err)
		}
	}
	void := ""
	if kills < 5 || len(words) < 200 {
		void = fmt.Sprintf("%d kills, %d calls", kills, len(words))
	}
	report(t, "S6b", void, 1, told("calls", float64(len(words)), "calls"), told("kills", float64(kills), "kills"), told("told MAYBE_EXECUTED", float64(doubtful), "calls"), told("told NOT_STARTED", float64(refused), "calls"),
		atMost("duplicates", float64(duplicates), 0, "calls"), atMost("wrongly classified", float64(wrong), 0, "calls"))
	s.expectReady(workers)
	s.expectIdle()
}

// deathSeen kills a worker whose grandchild lives on, and measures until the caller of its running call is told.
func (s *stage) deathSeen(session string) (time.Duration, bool) {
	pairs := []string{"snakepit-session", session, "snakepit-session-create", "true"}
	held, first := s.call("hold_socket", nil, pairs...), s.call("count", nil, pairs...)
	if held.err != nil || first.err != nil {
		s.t.Fatalf("before the kill: %v, %v", held.err, first.err)
	}
	told := make(chan answer, 1)
	go func() { told <- s.call("mark", arguments{"key": text(session), "seconds": number(20)}, pairs...) }()
	s.expectMark(session)
	killed := time.Now()
	_ = syscall.Kill(int(first.field("pid")), syscall.SIGKILL)
	a := <-told
	took := time.Since(killed)
	child := int(held.value.GetInteger())
	eventually(s.t, "the end of the grandchild", func() error {
		if syscall.Kill(child, 0) == nil {
			return errors.New("it lives")
		}
		return nil
	})
	return took, s.expectAnswer("killed while a grandchild holds the socket", session, a, codes.Aborted, "MAYBE_EXECUTED", 1)
}

// TestS6bHealthyConnectionsCut cuts the connections of workers that live: no session is lost, and none moves.
func TestS6bHealthyConnectionsCut(t *testing.T) {
	const sessions, workers, rounds = 8, 2, 5
	c := newCable(t)
	s := newStage(t, fmt.Sprintf("workers: %d\n", workers), c.env())
	c.lead(s.socket())
	s.expectReady(workers)
	lives := make([]answer, sessions)
	for i := range lives {
		if lives[i] = s.call("count", nil, "snakepit-session", fmt.Sprint("kept-", i), "snakepit-session-create", "true"); lives[i].err != nil {
			t.Fatal(lives[i].err)
		}
	}
	cuts, lost := 0, 0
	for round := range rounds {
		cuts += c.cutAll()
		var group sync.WaitGroup
		var mu sync.Mutex
		for i := range lives {
			group.Go(func() {
				a := s.call("count", nil, "snakepit-session", fmt.Sprint("kept-", i), "snakepit-session-token", lives[i].token())
				if a.err != nil || a.field("count") != int64(round+2) || a.field("epoch") != lives[i].field("epoch") || a.field("pid") != lives[i].field("pid") {
					mu.Lock()
					defer mu.Unlock()
					lost++
					t.Errorf("after cut %d: %v %v", round, a.value, a.err)
				}
			})
		}
		group.Wait()
		s.expectReady(workers)
	}
	void := ""
	if cuts < rounds*2*workers { // the supervisor may be about to dial again
		void = fmt.Sprintf("%d cuts", cuts)
	}
	report(t, "S6b", void, rounds, told("healthy connections cut", float64(cuts), "cuts"), atMost("false losses", float64(lost), 0, "sessions"))
	s.expectIdle()
}

// TestS1StaleEpochIsRefused sends a call under an epoch that its worker does not hold, as a router that missed a change would: its handler must not run.
func TestS1StaleEpochIsRefused(t *testing.T) {
	c := newCable(t)
	s := newStage(t, "workers: 1\n", c.env())
	c.lead(s.socket())
	s.expectReady(1)
	other := s.call("count", nil, "snakepit-session", "other", "snakepit-session-create", "true")
	begun := s.call("count", nil, "snakepit-session", "stale", "snakepit-session-create", "true")
	if other.err != nil || begun.err != nil {
		t.Fatal(other.err, begun.err)
	}
	forged := 0
	c.forgeCalls(func(frame []byte) {
		epoch := frame[20:28] // of the fixed part, behind 12 bytes of head
		if binary.LittleEndian.Uint64(epoch) == uint64(begun.field("epoch")) {
			binary.LittleEndian.PutUint64(epoch, uint64(begun.field("epoch"))-1)
			forged++
		}
	})
	a := s.call("mark", mark("stale"), "snakepit-session", "stale", "snakepit-session-token", begun.token())
	c.forgeCalls(nil)
	ran := s.marks()["stale"]
	if a.err == nil || !strings.HasPrefix(a.reason(), "SESSION_") || a.execution() != "NOT_STARTED" {
		t.Errorf("a call under a stale epoch: %v %v", a.value, a.err)
	}
	void := ""
	if forged == 0 {
		void = "no call was forged"
	}
	report(t, "S1", void, 1, atMost("calls run under an epoch that is not held", float64(ran), 0, "calls"))
	s.expectIdle()
}
