package load

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
)

// floor serves the echo for a test, behind a handler of its own when one is given.
func floor(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	address := make(chan string, 1)
	ended := make(chan error, 1)
	go func() { ended <- ServeFloor(ctx, func(a net.Addr) { address <- a.String() }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return <-address
}

func dial(t *testing.T, address string, work Work, lanes int) *Target {
	t.Helper()
	target, err := Dial([]string{address}, work, lanes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(target.Close)
	return target
}

var echo = Work{Method: "/bench.Echo/Unary", Request: []byte("hello"), Answer: []byte("hello")}

func TestClosedLoopMeasuresTheWindowOnly(t *testing.T) {
	target := dial(t, floor(t), echo, 4)
	if err := target.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	var probes []bool
	s, err := target.Closed(t.Context(), 20*time.Millisecond, 100*time.Millisecond, func(begin bool) { probes = append(probes, begin) })
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Latencies) == 0 || s.Window < 100*time.Millisecond {
		t.Errorf("%d calls in %s", len(s.Latencies), s.Window)
	}
	if len(probes) != 2 || !probes[0] || probes[1] {
		t.Errorf("probes %v, not one at each end", probes)
	}
}

func TestWrongAnswersEndTheRun(t *testing.T) {
	wrong := echo
	wrong.Answer = []byte("hullo")
	if err := dial(t, floor(t), wrong, 1).Open(t.Context()); err == nil || !strings.Contains(err.Error(), "not what was to come") {
		t.Errorf("bytes that differ: %v", err)
	}
	short := echo
	short.Answer = []byte("hell")
	if _, err := dial(t, floor(t), short, 2).Closed(t.Context(), 0, time.Minute, func(bool) {}); err == nil {
		t.Error("a size that differs ended no closed loop")
	}
	stream := echo
	stream.Answers = 10
	if err := dial(t, floor(t), stream, 1).Open(t.Context()); err == nil || !strings.Contains(err.Error(), "1 messages came, not 10") {
		t.Errorf("a stream that ends early: %v", err)
	}
	sessions := echo
	sessions.Sessions = "s-"
	if err := dial(t, floor(t), sessions, 1).Open(t.Context()); err == nil || !strings.Contains(err.Error(), "0 tokens") {
		t.Errorf("a session without a token: %v", err)
	}
}

// stalling answers one call at a time, and the first call of the window only when it is told to.
func stalling(t *testing.T, stall time.Duration) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	gate := make(chan struct{}, 1)
	server := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		message := frame{keep: true}
		if err := stream.RecvMsg(&message); err != nil {
			return err
		}
		gate <- struct{}{}
		defer func() { <-gate }()
		if calls.Add(1) == 2 { // the first one after Open
			sleep(stream.Context(), stall)
		}
		return stream.SendMsg(&message)
	}))
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// A closed loop forgets the callers that would have come during a stall; the open loop must not.
func TestPacedCountsFromTheIntendedStart(t *testing.T) {
	const stall = 300 * time.Millisecond
	target := dial(t, stalling(t, stall), echo, 1)
	if err := target.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := target.Paced(t.Context(), 200, 1, 0, 600*time.Millisecond, func(bool) {})
	if err != nil {
		t.Fatal(err)
	}
	waited := 0
	for _, latency := range s.Latencies {
		if latency >= stall/3 {
			waited++
		}
	}
	// 200 a second for two thirds of the stall: about 40 were to begin while the server could not answer.
	if waited < 20 {
		t.Errorf("%d of %d calls waited for the stall, of about 40 that were to begin in it", waited, len(s.Latencies))
	}
}

func TestScheduleIsRepeatableAndKeepsItsRate(t *testing.T) {
	start := time.Unix(0, 0)
	a, b, other := schedule(start, 1000, 7), schedule(start, 1000, 7), schedule(start, 1000, 8)
	same, last := true, start
	for range 10_000 {
		at := a()
		if !b().Equal(at) {
			t.Fatal("the same seed gave another schedule")
		}
		same = other().Equal(at) && same
		if at.Before(last) {
			t.Fatal("time went backwards")
		}
		last = at
	}
	if same {
		t.Error("another seed gave the same schedule")
	}
	if took := last.Sub(start); took < 9*time.Second || took > 11*time.Second {
		t.Errorf("10,000 calls at 1,000 a second took %s", took)
	}
}

func TestPercentile(t *testing.T) {
	ten := make([]time.Duration, 10)
	for i := range ten {
		ten[i] = time.Duration(i + 1)
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.1: 1, 0.5: 5, 0.51: 6, 0.99: 10, 1: 10} {
		if got := Percentile(ten, q); got != want {
			t.Errorf("quantile %g is %d, want %d", q, got, want)
		}
	}
	if Percentile(nil, 0.5) != 0 {
		t.Error("of nothing")
	}
}
