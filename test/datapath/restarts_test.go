package datapath

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	rpcv1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
)

// retried is a caller's policy as a user would have it: by the library, on UNAVAILABLE.
const retried = `{"methodConfig":[{"name":[{}],"waitForReady":true,"retryPolicy":{"maxAttempts":5,"initialBackoff":"0.1s","maxBackoff":"1s",` +
	`"backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE"]}}]}`

// load calls `mark_both` from several callers, each call with a key of its own, until it is told to stop.
type load struct {
	stage   *stage
	client  rpcv1.PoolClient
	name    string
	seconds float64 // of each call
	stop    chan struct{}
	group   sync.WaitGroup

	mu      sync.Mutex
	answers map[string]error // by key
	repeats atomic.Int64     // of calls that proved not to have begun
}

func (s *stage) load(name string, callers int, seconds float64, options ...grpc.DialOption) *load {
	l := &load{stage: s, client: rpcv1.NewPoolClient(s.dial(options...)), name: name, seconds: seconds, stop: make(chan struct{}), answers: map[string]error{}}
	for i := range callers {
		l.group.Go(func() { l.run(i) })
	}
	return l
}

func (l *load) run(caller int) {
	for n := 0; ; n++ {
		select {
		case <-l.stop:
			return
		default:
		}
		key := fmt.Sprintf("%s-%d-%d", l.name, caller, n)
		err := l.once(key)
		for deadline := time.Now().Add(20 * time.Second); err != nil && neverSent(err) && time.Now().Before(deadline); err = l.once(key) {
			l.repeats.Add(1)
			time.Sleep(20 * time.Millisecond) // a caller's back-off
		}
		l.mu.Lock()
		l.answers[key] = err
		l.mu.Unlock()
		if err != nil {
			time.Sleep(20 * time.Millisecond) // of a caller that goes on with its next call
		}
	}
}

func (l *load) once(key string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "snakepit-request-id", key)
	_, err := l.client.Execute(ctx, &rpcv1.ExecuteRequest{Tool: "mark_both", Arguments: arguments{"key": text(key), "seconds": number(l.seconds)}})
	return err
}

// neverSent says that a failure proves that nothing ran.
func neverSent(err error) bool {
	return answer{err: err}.execution() == "NOT_STARTED" || strings.Contains(err.Error(), "while dialing")
}

// end stops the callers and waits for their last calls.
func (l *load) end() {
	close(l.stop)
	l.group.Wait()
}

// TestS3RouterEndsUnderLoad ends the router by SIGTERM while calls run and wait: no call fails, and none runs twice.
func TestS3RouterEndsUnderLoad(t *testing.T) {
	const rounds, workers, callers = 3, 2, 6
	s := newStage(t, fmt.Sprintf("workers: %d\nqueue: {timeout: 20s}\ndrain: {timeout: 5s}\n", workers))
	s.expectReady(workers)
	l := s.load("s3", callers, 0.04, grpc.WithDefaultServiceConfig(retried))
	for range rounds {
		time.Sleep(time.Second) // of load between two restarts
		_ = s.router.Process.Signal(syscall.SIGTERM)
		if err := s.router.Wait(); err != nil {
			t.Errorf("the router's end: %v", err)
		}
		s.startRouter()
		s.expectReady(workers)
	}
	l.end()
	failed, twice := 0, 0
	marks := s.marks()
	for key, err := range l.answers {
		if err != nil {
			failed++
			t.Errorf("%s: %v", key, err)
		}
		if n := marks[key]; n != 1 {
			twice++
			t.Errorf("%s began %d times", key, n)
		}
	}
	void := ""
	if len(l.answers) < 30 {
		void = fmt.Sprintf("%d calls", len(l.answers))
	}
	report(t, "S3", void, rounds, told("calls", float64(len(l.answers)), "calls"), told("repeats by the caller", float64(l.repeats.Load()), "calls"),
		atMost("failed", float64(failed), 0, "calls"), atMost("not run exactly once", float64(twice), 0, "calls"))
	s.expectIdle()
}

// life is one session of a caller over restarts of the router.
type life struct {
	name, token  string
	epoch, count int64
}

// count goes on counting; it begins the session when it has no token. It reports what the caller was told.
func (s *stage) count(l *life) answer {
	pairs := []string{"snakepit-session", l.name, "snakepit-session-token", l.token}
	if l.token == "" {
		pairs = []string{"snakepit-session", l.name, "snakepit-session-create", "true"}
	}
	a := s.call("count", nil, pairs...)
	if a.err == nil {
		l.token, l.epoch, l.count = a.token(), a.field("epoch"), a.field("count")
	}
	return a
}

// TestS4RouterKilledUnderLoad kills the router again and again, under calls and sessions, one worker deep in C code: what ran goes on, and no
// session is lost. FAULTS=all: 20 kills in 10 minutes, and a minute in C code.
func TestS4RouterKilledUnderLoad(t *testing.T) {
	const workers, sessions = 4, 8
	kills, burn, between := either(6, 20), either(4.0, 60.0), either(300*time.Millisecond, 30*time.Second)
	s := newStage(t, fmt.Sprintf("workers: %d\nqueue: {timeout: 20s}\ncalls: {timeout: 120s}\n", workers))
	s.expectReady(workers)
	lives := make([]*life, sessions)
	for i := range lives {
		lives[i] = &life{name: fmt.Sprint("s4-", i)}
		if a := s.count(lives[i]); a.err != nil {
			t.Fatal(a.err)
		}
	}
	pids := s.workers(workers)
	burned := make(chan answer, 1)
	go func() { burned <- s.call("burn_at_once", arguments{"seconds": number(burn)}) }()
	busyUntil := time.Now().Add(time.Duration(burn * float64(time.Second)))
	l := s.load("s4", 4, 0.1)
	lost, stale, newest, slowest := 0, 0, int64(0), time.Duration(0)
	for k := range kills {
		time.Sleep(between) // of load between two kills
		killed := time.Now()
		s.killRouter()
		fresh := &life{name: fmt.Sprint("fresh-", k)}
		s.recover(fresh)
		slowest = max(slowest, time.Since(killed))
		if fresh.epoch <= newest {
			stale++
			t.Errorf("epoch %d follows %d", fresh.epoch, newest)
		}
		newest = fresh.epoch
		if left := time.Until(busyUntil); left > 10*time.Second {
			continue // sessions of the worker in C code would wait longer than the queue lets them
		}
		for _, old := range lives {
			lost += s.kept(old)
		}
	}
	l.end()
	<-burned // the caller was told that its router is gone; what matters is what it left behind
	s.expectReady(workers)
	if now := s.workers(workers); !same(pids, now) {
		t.Errorf("workers %v became %v", pids, now)
	}
	unknown, broken, twice, unfinished := l.judge(t)
	void := ""
	if broken < kills || len(l.answers) < 30 {
		void = fmt.Sprintf("%d calls, %d of them broken", len(l.answers), broken)
	}
	report(t, "S4", void, kills, told("calls", float64(len(l.answers)), "calls"), told("calls broken by a kill", float64(broken), "calls"),
		atMost("told outside the contract", float64(unknown), 0, "calls"), atMost("duplicates", float64(twice), 0, "calls"),
		atMost("running calls that did not go on", float64(unfinished), 0, "calls"), atMost("sessions lost", float64(lost), 0, "sessions"),
		atMost("epochs that went back", float64(stale), 0, "epochs"), told("recovery, slowest", slowest.Seconds(), "s"))
	s.expectIdle()
}

// recover begins a session as soon as the router answers.
func (s *stage) recover(l *life) {
	s.t.Helper()
	eventually(s.t, "an answer of the next router", func() error { return s.count(l).err })
}

// kept counts once more in a session, and reports 1 when it is not what it was.
func (s *stage) kept(l *life) int {
	s.t.Helper()
	before := *l
	a := s.count(l)
	if a.err == nil && l.epoch == before.epoch && l.count == before.count+1 {
		return 0
	}
	s.t.Errorf("session %s of epoch %d, count %d: %v %v", l.name, before.epoch, before.count, a.value, a.err)
	return 1
}

// judge sorts what callers were told under kills of the router, beside what their handlers wrote down.
func (l *load) judge(t *testing.T) (unknown, broken, twice, unfinished int) {
	t.Helper()
	eventually(t, "the end of every handler that began", func() error {
		marks := l.stage.marks()
		for key := range l.answers {
			if marks[key] != marks[key+":end"] {
				return fmt.Errorf("%s began %d times and ended %d times", key, marks[key], marks[key+":end"])
			}
		}
		return nil
	})
	marks := l.stage.marks()
	for key, err := range l.answers {
		if err != nil {
			broken++
			if (answer{err: err}).reason() == "" && status.Code(err) != codes.Unavailable {
				unknown++
				t.Errorf("%s: %v", key, err)
			}
		}
		if marks[key] > 1 {
			twice++
			t.Errorf("%s began %d times: %v", key, marks[key], err)
		}
		if marks[key] != marks[key+":end"] || err == nil && marks[key] == 0 {
			unfinished++
		}
	}
	return unknown, broken, twice, unfinished
}

func same(a, b []int) bool {
	in := map[int]bool{}
	for _, x := range a {
		in[x] = true
	}
	for _, x := range b {
		if !in[x] {
			return false
		}
	}
	return len(a) == len(b)
}

// TestS4SameRequestOnce repeats a call of a session after the router was killed under it, by the request id that the caller gave it.
func TestS4SameRequestOnce(t *testing.T) {
	const rounds = 4
	s := newStage(t, "workers: 2\nqueue: {timeout: 20s}\n")
	s.expectReady(2)
	l := &life{name: "once"}
	if a := s.count(l); a.err != nil {
		t.Fatal(a.err)
	}
	duplicates, unanswered, bare := 0, 0, 0
	for round := range rounds {
		key := fmt.Sprint("once-", round)
		pairs := []string{"snakepit-session", l.name, "snakepit-session-token", l.token, "snakepit-request-id", key}
		args := arguments{"key": text(key), "seconds": number(0.2 * float64(round))}
		first := make(chan answer, 1)
		go func() { first <- s.call("mark", args, pairs...) }()
		s.expectMark(key)
		s.killRouter()
		if a := <-first; a.err != nil && a.reason() == "" && status.Code(a.err) == codes.Unavailable {
			bare++
		}
		var again answer
		eventually(t, "an answer of the next router", func() error {
			again = s.call("mark", args, pairs...)
			return again.err
		})
		if again.value.GetText() != key {
			unanswered++
		}
		duplicates += s.marks()[key] - 1
	}
	void := ""
	if bare < rounds-1 { // the first round's handler may have answered before the kill
		void = fmt.Sprintf("%d calls were broken", bare)
	}
	report(t, "S4", void, rounds, atMost("duplicates of one request id", float64(duplicates), 0, "runs"), atMost("repeats without the kept answer", float64(unanswered), 0, "calls"))
	s.expectIdle()
}
