package datapath

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"

	rpcv1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// eager is a retry policy that repeats what it should not, unless the router forbids it; its own back-off is far below any wait hint.
const eager = `{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":4,"initialBackoff":"0.001s","maxBackoff":"0.002s",` +
	`"backoffMultiplier":1,"retryableStatusCodes":["UNAVAILABLE","ABORTED"]}}]}`

// attempts notes what a client of grpc-go sends: each attempt of each call, and when the router allowed the next one.
type attempts struct {
	mu       sync.Mutex
	began    []time.Time
	earliest []time.Time // of the next attempt, where the router asked for a wait
}

func (a *attempts) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (a *attempts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}
func (a *attempts) HandleConn(context.Context, stats.ConnStats) {}

// HandleRPC implements stats.Handler.
func (a *attempts) HandleRPC(_ context.Context, s stats.RPCStats) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch s := s.(type) {
	case *stats.Begin:
		a.began = append(a.began, s.BeginTime)
	case *stats.InTrailer:
		if ms, err := strconv.Atoi(strings.Join(s.Trailer.Get("grpc-retry-pushback-ms"), "")); err == nil && ms > 0 {
			a.earliest = append(a.earliest, time.Now().Add(time.Duration(ms)*time.Millisecond))
		}
	}
}

// take returns what was noted since the last time.
func (a *attempts) take() (began, earliest []time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	began, earliest, a.began, a.earliest = a.began, a.earliest, nil, nil
	return began, earliest
}

// TestS6cLibrariesDoNotRepeat gives the retries of grpc-go and of Python's grpcio every chance to repeat what must not be repeated.
func TestS6cLibrariesDoNotRepeat(t *testing.T) {
	const rounds = 3
	s := newStage(t, "workers: 2\n"+calm)
	s.expectReady(2)
	noted := &attempts{}
	client := rpcv1.NewPoolClient(s.dial(grpc.WithDefaultServiceConfig(eager), grpc.WithStatsHandler(noted)))
	callers := map[string]func(tool, key string, pairs ...string) (code, message string){
		"grpc-go": func(tool, key string, pairs ...string) (string, string) { return s.callBy(client, tool, key, pairs...) },
		"grpcio":  s.callByPython,
	}
	duplicates, swallowed := 0, 0
	for name, call := range callers {
		for round := range rounds {
			key := fmt.Sprintf("%s-%d", name, round)
			if code, message := call("die", key); code != "ABORTED" {
				swallowed++
				t.Errorf("%s: MAYBE_EXECUTED became %s %s", name, code, message)
			}
			duplicates += s.marks()[key] - 1
			s.expectReady(2)
			l := &life{name: key}
			pid := s.count(l).field("pid")
			_ = syscall.Kill(int(pid), syscall.SIGKILL)
			s.expectLoss(l)
			before := s.total(lossesTold)
			code, message := call("mark", key+"-lost", "snakepit-session", l.name, "snakepit-session-token", l.token)
			if code != "ABORTED" || !strings.Contains(message, "was lost") {
				swallowed++
				t.Errorf("%s: SESSION_LOST became %s %s", name, code, message)
			}
			duplicates += s.total(lossesTold) - before - 1 + s.marks()[key+"-lost"]
			s.expectReady(2)
		}
	}
	began, _ := noted.take()
	report(t, "S6c", "", rounds, atMost("duplicates", float64(duplicates), 0, "calls"), atMost("swallowed losses", float64(swallowed), 0, "calls"),
		atMost("attempts of grpc-go", float64(len(began)), 2*rounds, "attempts"))
	s.expectIdle()
}

const lossesTold = `snakepit_router_calls_total{code="Aborted",reason="SESSION_LOST",tool="mark"}`

// expectLoss waits until the router knows that a session's worker is gone: before, a call waits for it.
func (s *stage) expectLoss(l *life) {
	s.t.Helper()
	eventually(s.t, "the loss of session "+l.name, func() error {
		a := s.call("count", nil, "snakepit-session", l.name, "snakepit-session-token", l.token)
		if a.reason() != "SESSION_LOST" {
			return fmt.Errorf("told %q", a.reason())
		}
		return nil
	})
}

// callBy makes one call by a client of grpc-go, and names the code as grpcio does.
func (s *stage) callBy(client rpcv1.PoolClient, tool, key string, pairs ...string) (code, message string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := client.Execute(metadata.AppendToOutgoingContext(ctx, pairs...), &rpcv1.ExecuteRequest{Tool: tool, Arguments: mark(key)})
	st := answer{err: err}.status()
	names := map[codes.Code]string{codes.OK: "OK", codes.Aborted: "ABORTED", codes.Unavailable: "UNAVAILABLE"}
	if name, ok := names[st.Code()]; ok {
		return name, st.Message()
	}
	return st.Code().String(), st.Message()
}

// callByPython makes one call by grpcio, with the same policy.
func (s *stage) callByPython(tool, key string, pairs ...string) (code, message string) {
	s.t.Helper()
	script := filepath.Join(fixture.Root(), "test/datapath/adapter/retrying.py")
	cmd := exec.Command(python(), append([]string{script, s.listen, tool, key}, pairs...)...)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+filepath.Join(fixture.Root(), "worker-image/src"))
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("retrying.py: %v", err)
	}
	code, message, _ = strings.Cut(strings.TrimSpace(string(out)), " ")
	return code, message
}

// TestS6cWaitHints lets a library repeat what proved not to have begun: it waits as long as it was told, and succeeds.
func TestS6cWaitHints(t *testing.T) {
	const rounds = 5
	c := newCable(t)
	s := newStage(t, "workers: 2\n"+calm, c.env())
	c.lead(s.socket())
	s.expectReady(2)
	noted := &attempts{}
	client := rpcv1.NewPoolClient(s.dial(grpc.WithDefaultServiceConfig(eager), grpc.WithStatsHandler(noted)))
	early, failed, hints, runs := 0, 0, 0, 0
	for round := range rounds {
		key := fmt.Sprint("hint-", round)
		c.arm(&cut{kind: bridge.KindCall}, &cut{kind: bridge.KindCall}, &cut{kind: bridge.KindCall})
		if code, message := s.callBy(client, "mark", key); code != "OK" {
			failed++
			t.Errorf("%s: %s %s", key, code, message)
		}
		began, earliest := noted.take()
		hints += len(earliest)
		for i, allowed := range earliest {
			if i+1 >= len(began) || began[i+1].Before(allowed) {
				early++
				t.Errorf("%s: attempts at %v, allowed from %v", key, began, earliest)
			}
		}
		runs += s.marks()[key]
		s.expectReady(2)
	}
	void := ""
	if hints < rounds {
		void = fmt.Sprintf("%d wait hints", hints)
	}
	report(t, "S6c", void, rounds, told("wait hints", float64(hints), "hints"), atMost("repeats before their time", float64(early), 0, "repeats"),
		atMost("safe calls that failed", float64(failed), 0, "calls"), atMost("duplicates", float64(runs-rounds), 0, "calls"))
	s.expectIdle()
}
