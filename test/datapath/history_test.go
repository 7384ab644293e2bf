package datapath

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// toldOutcome is what the caller of one session's call was told.
type toldOutcome uint8

const (
	counted      toldOutcome = iota // an answer: the count and the epoch of its life
	lifeLost                        // SESSION_LOST: the life whose token was sent is over
	maybeCounted                    // the handler may have run
	notStarted                      // proven not to have run
)

// op is one call of one session: its input says whether it created, and which life it named; its output what was told.
type op struct {
	create bool
	epoch  int64 // of the token that was sent; 0 for none
}

type outcome struct {
	what  toldOutcome
	count int64
	epoch int64
}

// lifeState is what may be true of a session: which life it is in, and how often its handler ran. Epoch 0: none that anybody was told of.
type lifeState struct {
	epoch int64
	count int64
	over  bool // this life can never answer again: its loss was told
}

// sessionModel says which histories of one session are allowed. A life may be lost at any time, so nothing forbids a loss; what is forbidden is
// an answer of a life whose loss was told or that a later one followed, a count that skips or repeats, and a fresh start that was not asked for.
var sessionModel = porcupine.NondeterministicModel{
	Init: func() []any { return []any{lifeState{}} },
	Step: func(state, input, output any) []any {
		return step(state.(lifeState), input.(op), output.(outcome))
	},
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(input, output any) string {
		in, out := input.(op), output.(outcome)
		return fmt.Sprintf("create=%v epoch=%d -> %+v", in.create, in.epoch, out)
	},
}

func step(s lifeState, in op, out outcome) []any {
	switch out.what {
	case notStarted:
		return []any{s}
	case lifeLost:
		if in.epoch == s.epoch || s.epoch == 0 {
			return []any{lifeState{epoch: s.epoch, count: s.count, over: true}}
		}
		return []any{s}
	case maybeCounted:
		return []any{s, lifeState{epoch: s.epoch, count: s.count + 1, over: s.over}}
	}
	same := out.epoch == s.epoch && !s.over && out.count == s.count+1
	fresh := in.create && out.epoch > s.epoch && out.count == 1
	if same || fresh {
		return []any{lifeState{epoch: out.epoch, count: out.count}}
	}
	return nil
}

// caller plays one session: it creates, counts with its token, and acknowledges a loss by creating again.
type caller struct {
	stage   *stage
	name    string
	token   string
	epoch   int64
	history []porcupine.Operation
	pids    chan<- int
	strange []string
}

func (c *caller) play(end time.Time, began time.Time) {
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for ; time.Now().Before(end); <-pace.C {
		pairs := []string{"snakepit-session", c.name}
		in := op{}
		if c.token == "" {
			pairs, in.create = append(pairs, "snakepit-session-create", "true"), true
		} else {
			pairs, in.epoch = append(pairs, "snakepit-session-token", c.token), c.epoch
		}
		call := time.Since(began)
		a := c.stage.call("count", nil, pairs...)
		out, ok := c.read(a)
		if !ok {
			continue
		}
		c.history = append(c.history, porcupine.Operation{Input: in, Output: out, Call: call.Nanoseconds(), Return: time.Since(began).Nanoseconds()})
	}
}

// read turns an answer into what the history keeps, and decides how the caller goes on. It reports false where nothing was learnt.
func (c *caller) read(a answer) (outcome, bool) {
	switch {
	case a.err == nil:
		c.token, c.epoch = a.token(), a.field("epoch")
		select {
		case c.pids <- int(a.field("pid")):
		default:
		}
		return outcome{counted, a.field("count"), c.epoch}, true
	case a.reason() == "SESSION_LOST" || a.reason() == "SESSION_EXPIRED":
		c.token, c.epoch = "", 0
		return outcome{what: lifeLost}, true
	case a.execution() == "NOT_STARTED", strings.Contains(a.err.Error(), "while dialing"): // no connection: it was never sent
		time.Sleep(5 * time.Millisecond) // as a caller's back-off would
		return outcome{what: notStarted}, false
	case a.execution() == "MAYBE_EXECUTED", strings.Contains(a.err.Error(), "Unavailable"): // a router that was killed can say nothing
		return outcome{what: maybeCounted}, true
	}
	c.strange = append(c.strange, a.err.Error())
	return outcome{what: maybeCounted}, true
}

// TestS1HistoryUnderKills plays sessions while workers and the router are killed, and checks that each session's history is one that a single
// owner could have given.
func TestS1HistoryUnderKills(t *testing.T) {
	const sessions, workers = 12, 4
	length := 12 * time.Second
	s := newStage(t, fmt.Sprintf("workers: %d\nqueue: {timeout: 5s}\ndrain: {timeout: 2s}\n", workers))
	s.expectReady(workers)
	pids := make(chan int, 16)
	began := time.Now()
	end := began.Add(length)
	var group sync.WaitGroup
	callers := make([]*caller, sessions)
	for i := range callers {
		callers[i] = &caller{stage: s, name: fmt.Sprint("s1-", i), pids: pids}
		group.Go(func() { callers[i].play(end, began) })
	}
	kills, restarts := s.killWhile(end, pids)
	group.Wait()
	operations, bad := 0, 0
	for _, c := range callers {
		operations += len(c.history)
		if !check(t, c) {
			bad++
		}
	}
	void := ""
	if rate := float64(operations) / length.Seconds(); rate < 50 || kills < 5 || restarts < 1 {
		void = fmt.Sprintf("%.0f calls/s, %d kills, %d router restarts; at least 50, 5 and 1 are wanted", rate, kills, restarts)
	}
	report(t, "S1", void, 1, told("operations", float64(operations), "calls"), told("worker kills", float64(kills), "kills"),
		told("router kills", float64(restarts), "kills"), atMost("violations", float64(bad), 0, "sessions"))
	s.expectIdle()
}

// killWhile kills a worker about every 700 ms and the router about every 5 s.
func (s *stage) killWhile(end time.Time, pids <-chan int) (kills, restarts int) {
	ticker := time.NewTicker(700 * time.Millisecond)
	defer ticker.Stop()
	for n := 1; time.Now().Before(end); n++ {
		<-ticker.C
		if n%7 == 0 {
			s.killRouter()
			restarts++
			continue
		}
		select {
		case pid := <-pids:
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				kills++
			}
		default:
		}
		for len(pids) > 0 { // the next victim is one that answered lately
			<-pids
		}
	}
	return kills, restarts
}

func check(t *testing.T, c *caller) bool {
	t.Helper()
	for _, text := range c.strange {
		t.Errorf("session %s: an answer outside the contract: %s", c.name, text)
	}
	result := porcupine.CheckOperationsTimeout(sessionModel.ToModel(), c.history, 30*time.Second)
	if result == porcupine.Ok && len(c.strange) == 0 {
		return true
	}
	t.Errorf("session %s: its history of %d operations is %s:", c.name, len(c.history), result)
	for i, o := range c.history {
		if i < 200 {
			t.Logf("  %s", sessionModel.DescribeOperation(o.Input, o.Output))
		}
	}
	return false
}

// TestS2OneOwner lets 1,000 callers create one session at once while workers are killed: a life has one owner.
func TestS2OneOwner(t *testing.T) {
	const callers, workers = 1000, 4
	s := newStage(t, fmt.Sprintf("workers: %d\nqueue: {maxLength: 2000, perSession: 2000, timeout: 20s}\n", workers))
	s.expectReady(workers)
	victims := s.workers(workers)
	type seen struct{ epoch, pid, count int64 }
	answers := make(chan seen, callers)
	var refused atomic.Int64
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			a := s.call("count", nil, "snakepit-session", "one", "snakepit-session-create", "true")
			if a.err != nil {
				refused.Add(1)
				return
			}
			answers <- seen{a.field("epoch"), a.field("pid"), a.field("count")}
		})
	}
	kills := 0
	for _, pid := range victims[:workers-1] {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			kills++
		}
	}
	group.Wait()
	close(answers)
	owners, counts := map[int64]int64{}, map[[2]int64]bool{}
	double, total := 0, 0
	for a := range answers {
		total++
		if pid, known := owners[a.epoch]; known && pid != a.pid || counts[[2]int64{a.epoch, a.count}] {
			double++
		}
		owners[a.epoch], counts[[2]int64{a.epoch, a.count}] = a.pid, true
	}
	void := ""
	if total < callers/4 || kills == 0 {
		void = fmt.Sprintf("%d answers, %d kills", total, kills)
	}
	report(t, "S2", void, 1, told("answers", float64(total), "calls"), told("lives", float64(len(owners)), "lives"),
		told("refused", float64(refused.Load()), "calls"), atMost("double owners", float64(double), 0, "answers"))
	s.expectIdle()
}
