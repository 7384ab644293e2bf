package datapath

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// limit of a message in these tests, in bytes.
const limit = 4 * mebibyte

// generous lets the client take what the router lets through, so that it is the router's limit that is seen.
func (s *stage) generous() {
	s.conn = s.dial(grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	s.client = rpcv1.NewPoolClient(s.conn)
}

// TestS10AtTheLimit sends and asks for messages of one byte less than the limit, of the limit, and of one byte more.
func TestS10AtTheLimit(t *testing.T) {
	s := newStage(t, fmt.Sprintf("workers: 2\ncalls: {maxMessageBytes: %d}\n", limit))
	s.generous()
	s.expectReady(2)
	wrong, checked := 0, 0
	for _, off := range []int{-1, 0, 1} {
		for way, a := range map[string]answer{"request": s.request(limit + off), "answer": s.answerOf(limit + off)} {
			checked++
			if want := map[bool]string{true: "MESSAGE_TOO_LARGE"}[off > 0]; (a.err != nil) != (off > 0) || a.reason() != want {
				wrong++
				t.Errorf("%s of the limit%+d bytes: %v, reason %q", way, off, a.err, a.reason())
			}
		}
	}
	report(t, "S10", "", checked, atMost("messages at the limit that were judged wrongly", float64(wrong), 0, "messages"))
	s.expectIdle()
}

// request of exactly so many bytes.
func (s *stage) request(size int) answer {
	whole := func(payload int) arguments { return arguments{"payload": data(make([]byte, payload))} }
	payload := size
	for range 3 { // the lengths within take a byte more or less
		payload += size - proto.Size(&rpcv1.ExecuteRequest{Tool: "size", Arguments: whole(payload)})
	}
	return s.call("size", whole(payload))
}

// answerOf asks for an answer of exactly so many bytes.
func (s *stage) answerOf(size int) answer {
	payload := size
	for range 3 {
		payload += size - proto.Size(&rpcv1.ExecuteResponse{Outcome: &rpcv1.ExecuteResponse_Result{Result: data(make([]byte, payload))}})
	}
	return s.call("big", arguments{"size": integer(int64(payload))})
}

// TestS10EndlessReply lets both workers answer without end to callers that do not read: the router keeps a bounded amount, and the slots come back.
func TestS10EndlessReply(t *testing.T) {
	s := newStage(t, "workers: 2\n")
	s.expectReady(2)
	s.call("pid", nil)
	before := s.forgetPeak()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var streams []grpc.ServerStreamingClient[rpcv1.ExecuteStreamResponse]
	for range 2 {
		stream, err := s.client.ExecuteStream(ctx, &rpcv1.ExecuteRequest{Tool: "flood", Arguments: arguments{"size": integer(64 << 10)}})
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	received := 0
	for _, stream := range streams { // both are under way
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		received++
	}
	pause(ctx, 3*time.Second) // nobody reads
	growth := s.peak() - before
	for range 100 { // and it goes on where it stopped
		if _, err := streams[0].Recv(); err != nil {
			t.Fatal(err)
		}
		received++
	}
	cancel()
	began := time.Now()
	s.expectIdle()
	report(t, "S10", "", 1, told("endless replies: messages read", float64(received), "messages"),
		atMost("endless replies: growth of the router's RSS", growth/mebibyte, 32, "MiB"),
		byClock(atMost("endless replies: until the slots are free after a cancel", time.Since(began).Seconds(), 5, "s")))
}

// budget of the router in the tests of memory: half of GOMEMLIMIT, and room for one message of the default limit.
const budget = 100 * mebibyte

// budgeted starts a router that is told of a memory limit.
func budgeted(t *testing.T, spec string) *stage {
	t.Helper()
	t.Setenv("GOMEMLIMIT", fmt.Sprint(2*budget))
	s := newStage(t, spec)
	s.generous()
	return s
}

// TestS10ManyLargeCallsWait lets 200 calls of 4 MiB wait for two workers (the catalogue's 1,000 of 100 MiB, as far as this machine goes).
func TestS10ManyLargeCallsWait(t *testing.T) {
	const calls = 200
	s := budgeted(t, fmt.Sprintf("workers: 2\ncalls: {maxMessageBytes: %d}\nqueue: {maxLength: 1000, timeout: 90s}\n", limit+1024))
	s.expectReady(2)
	if a := s.request(limit); a.err != nil {
		t.Fatal(a.err)
	}
	before := s.forgetPeak()
	payload := arguments{"payload": data(make([]byte, limit))}
	var group sync.WaitGroup
	held, free := context.WithCancel(context.Background())
	defer free()
	for range 2 { // holds the workers until enough calls have come, however long that takes
		group.Go(func() { s.callIn(held, "sleep", arguments{"seconds": number(50)}) })
	}
	fixture.Eventually(t, 5*time.Second, "busy workers", func() error {
		if n := s.metric("snakepit_router_calls_in_flight"); n != "2" {
			return fmt.Errorf("%s run", n)
		}
		return nil
	})
	all := make([]answer, calls)
	for i := range all {
		group.Go(func() { all[i] = s.within(90*time.Second, "size", payload) })
	}
	waiting := 0.0
	fixture.Eventually(t, 30*time.Second, "as many waiting calls as the budget admits", func() error {
		if waiting = math.Max(waiting, s.value("snakepit_router_queue_length")); waiting < 15 {
			return fmt.Errorf("%g wait", waiting)
		}
		return nil
	})
	free()
	group.Wait()
	failed := 0
	for _, a := range all {
		if a.err != nil {
			failed++
			t.Logf("%v", a.err)
		}
	}
	report(t, "S10", "", 1, told("large calls", calls, "calls"), told("of which admitted while none runs, at least", waiting, "calls"),
		atMost("large calls that failed", float64(failed), 0, "calls"), told("peak RSS with large calls, above the base", (s.peak()-before)/mebibyte, "MiB"),
		atMost("peak RSS with large calls, above the base and the budget", (s.peak()-before-budget)/mebibyte, 4*limit/mebibyte, "MiB"))
	s.expectIdle()
}

// TestS10SlowReadersOfLargeAnswers asks for 100 answers of 4 MiB that nobody reads: the router keeps a part of its budget of them and refuses the
// other calls, no slot stays taken, and others are served.
func TestS10SlowReadersOfLargeAnswers(t *testing.T) {
	const calls = 100
	s := budgeted(t, "workers: 2\nqueue: {timeout: 2s}\n")
	s.expectReady(2)
	if a := s.answerOf(limit); a.err != nil {
		t.Fatal(a.err)
	}
	before := s.forgetPeak()
	r, err := s.dialRaw()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	request := message(t, "big", arguments{"size": integer(limit)})
	for range calls {
		id, err := r.open(fields(executePath))
		if err == nil {
			err = r.framer.WriteData(id, true, request)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.expectIdle()
	unread := s.peak() - before
	refused := s.total(`snakepit_router_calls_total{code="ResourceExhausted",reason="QUEUE_FULL",tool="big"}`)
	beside := s.answerOf(limit)
	_ = r.Close()
	again := s.answerOf(limit)
	for _, a := range []answer{beside, again} {
		if a.err != nil {
			t.Error(a.err)
		}
	}
	void := ""
	if refused == 0 || refused > calls-budget/4/limit {
		void = fmt.Sprintf("%d of %d calls were refused", refused, calls)
	}
	report(t, "S10", void, 1, told("unread answers", calls, "answers"), told("of which refused", float64(refused), "calls"),
		told("peak RSS with unread answers, above the base", unread/mebibyte, "MiB"),
		atMost("peak RSS with unread answers, above the base and the budget", (unread-budget)/mebibyte, 2*limit/mebibyte, "MiB"))
	s.expectIdle()
}

// TestS10SlowSendersOfLargeRequests announces more than the budget in requests whose bytes do not come: others must get room and workers back.
func TestS10SlowSendersOfLargeRequests(t *testing.T) {
	const senders, holding = 20, 4 // as many as fill the budget have a worker
	s := budgeted(t, fmt.Sprintf("workers: %d\ncalls: {maxMessageBytes: %d}\nqueue: {timeout: 2s}\n", holding, 32*mebibyte))
	s.expectReady(holding)
	r, err := s.dialRaw()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for range senders {
		id, err := r.open(fields(executePath))
		if err == nil {
			err = r.framer.WriteData(id, false, append(binary.BigEndian.AppendUint32([]byte{0}, budget/holding), 1))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	fixture.Eventually(t, 5*time.Second, "workers that wait for a slow caller", func() error {
		if n := s.metric("snakepit_router_calls_in_flight"); n != fmt.Sprint(holding) {
			return fmt.Errorf("%s are held", n)
		}
		return nil
	})
	began := time.Now()
	fixture.Eventually(t, 25*time.Second, "service for others", func() error {
		return s.within(time.Second, "size", arguments{"payload": data(make([]byte, mebibyte))}).err
	})
	// A slow caller may keep a worker waiting for 10 s; its neighbours in the queue give up after queue.timeout.
	report(t, "S10", "", 1, told("slow senders", senders, "streams"), byClock(atMost("until others are served", time.Since(began).Seconds(), 20, "s")))
	s.expectIdle()
}

// TestS15PathsAndMetadata abuses paths and metadata as a caller may who writes the bytes itself: no handler runs, and no session is made.
func TestS15PathsAndMetadata(t *testing.T) {
	s := newStage(t, "workers: 2\nsessions: {creation: Implicit}\n")
	s.expectReady(2)
	bypasses, tried := 0, 0
	judge := func(name, path string, extra ...string) {
		tried++
		r, err := s.dialRaw()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		id, err := r.open(fields(path, extra...))
		if err == nil {
			err = r.framer.WriteData(id, true, message(t, "mark", arguments{"key": text("bypass")}))
		}
		status, reason := "closed", ""
		if err == nil {
			status, reason = r.result(id)
		}
		t.Logf("%s: %s %s", name, status, reason)
		if status == "0" || status == "" {
			bypasses++
			t.Errorf("%s was served", name)
		}
	}
	for _, path := range abusedPaths {
		judge(fmt.Sprintf("path %.60q", path), path)
	}
	for _, pairs := range abusedMetadata {
		judge(fmt.Sprintf("metadata %.80q", pairs), executePath, pairs...)
	}
	ran := s.marks()["bypass"]
	sessions := s.value("snakepit_router_sessions")
	a := s.call("mark", arguments{"key": text("good")}, "snakepit-session", "good") // the same, as it should be
	void := ""
	if a.err != nil || s.marks()["good"] != 1 || a.token() == "" {
		void = fmt.Sprintf("the call that is right fails too: %v", a.err)
	}
	report(t, "S15", void, 1, told("abuses", float64(tried), "calls"), atMost("bypasses", float64(bypasses), 0, "calls"),
		atMost("handlers that ran", float64(ran), 0, "runs"), atMost("sessions that were made", sessions, 0, "sessions"))
	s.expectIdle()
}

var abusedPaths = []string{
	"", "/", "//", "*", "snakepit.v1alpha1.Pool/Execute", "//snakepit.v1alpha1.Pool/Execute", "/snakepit.v1alpha1.Pool//Execute",
	"/snakepit.v1alpha1.Pool/Execute/", "/snakepit.v1alpha1.Pool/Execute?x=1", "/snakepit.v1alpha1.Pool/Execute#x", "/snakepit.v1alpha1.Pool/execute",
	"/snakepit.v1alpha1.pool/Execute", "/./snakepit.v1alpha1.Pool/Execute", "/x/../snakepit.v1alpha1.Pool/Execute", "/snakepit.v1alpha1.Pool%2fExecute",
	"/%73nakepit.v1alpha1.Pool/Execute", "/snakepit.v1alpha1.Pool/Execute\x00", "/snakepit.v1alpha1.Pool/Exe\ncute", "/snakepit.v1alpha1.Pool/Execute ",
	"/snakepit.v1alpha1.Pool\\Execute", "/snakepit.v1alpha1.Pool/" + strings.Repeat("Execute", 1500), strings.Repeat("/", 10000),
	"http://pool/snakepit.v1alpha1.Pool/Execute", "/snakepit.v1alpha1.Pool/Execute,/snakepit.v1alpha1.Pool/Execute",
}

var abusedMetadata = [][]string{
	{"snakepit-session", "a", "snakepit-session", "b"}, {"snakepit-session", "a", "snakepit-session", "a"}, {"snakepit-session", "a,b"}, {"snakepit-session", "a, a"},
	{"snakepit-session", ""}, {"snakepit-session", "a b"}, {"snakepit-session", "a\x00b"}, {"snakepit-session", "a\tb"}, {"snakepit-session", "a\r\nb"}, {"snakepit-session", "ä"},
	{"snakepit-session", strings.Repeat("n", 129)}, {"snakepit-session", strings.Repeat("n", 10<<10)}, {"Snakepit-Session", "a"}, {"SNAKEPIT-SESSION", "a"},
	{"snakepit-session", "a", "snakepit-session-create", "true,true"}, {"snakepit-session", "a", "snakepit-session-create", "TRUE"},
	{"snakepit-session", "a", "snakepit-session-create", "true", "snakepit-session-create", "true"},
	{"snakepit-session", "a", "snakepit-session-token", "x"}, {"snakepit-session-token", "eA"}, {"snakepit-session-create", "true"},
	{"snakepit-session", "a", "snakepit-session-token", strings.Repeat("e", 10<<10)}, {"snakepit-session", "a", "snakepit-affinity", "hint,hint"},
	{"snakepit-session", "a", "snakepit-affinity", "hint", "snakepit-affinity", "strict-queue"}, {"snakepit-request-id", "a", "snakepit-request-id", "b"},
	{"snakepit-request-id", "a,b"}, {"snakepit-request-id", strings.Repeat("r", 10<<10)}, {"snakepit-tenant", "a", "snakepit-tenant", "b"}, {"snakepit-tenant", "a,b"},
	{"snakepit-tenant", strings.Repeat("t", 65)}, {"snakepit-idempotent", "true", "snakepit-idempotent", "true"}, {"snakepit-session ", "a"}, {"snakepit-session:", "a"},
	{"snakepit session", "a"}, {"snakepit-session\x00", "a"}, {"x-long", strings.Repeat("x", 40<<10)}, {"x-longer", strings.Repeat("x", 80<<10)},
	{":path", executePath}, {":method", "POST"}, {"", "a"},
}

// TestS10AWorkersBigMessageDelaysNobody sends 64 MiB to one slot of a worker: calls of its other slot, and a cancel there, do not wait for it.
func TestS10AWorkersBigMessageDelaysNobody(t *testing.T) {
	s := newStage(t, "workers: 1\n", "SNAKEPIT_SLOTS=2")
	s.generous()
	s.expectReady(1)
	bulk := s.dial(grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1 << 30))) // of its own: what is measured is behind the router
	ask := func() answer { return s.within(10*time.Second, "pid", nil) }
	quiet := closedLoop(1, time.Second, ask)
	payload := arguments{"payload": data(make([]byte, 64*mebibyte))}
	var beside, lags []time.Duration
	for range 3 {
		done := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			_, err := rpcv1.NewPoolClient(bulk).Execute(ctx, &rpcv1.ExecuteRequest{Tool: "size", Arguments: payload})
			done <- err
		}()
		fixture.Eventually(t, 10*time.Second, "the large call's slot", func() error {
			if n := s.metric("snakepit_router_calls_in_flight"); n != "1" {
				return fmt.Errorf("%s run", n)
			}
			return nil
		})
		lags = append(lags, s.cancelLag())
		for len(done) == 0 {
			at := time.Now()
			if a := ask(); a.err != nil {
				t.Error(a.err)
			}
			beside = append(beside, time.Since(at))
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	void := ""
	if len(beside) < 20 {
		void = fmt.Sprintf("%d small calls beside the large one", len(beside))
	}
	base := milliseconds(median(durations(quiet)))
	report(t, "S10", void, 3, told("small call alone, p50", base, "ms"), told("small calls beside 64 MiB", float64(len(beside)), "calls"),
		told("small call beside 64 MiB, p99", milliseconds(quantile(beside, 0.99)), "ms"),
		// A frame of 256 KiB takes less than 1 ms; the rest is room for the interpreter's lock and a busy machine.
		byClock(atMost("small call beside 64 MiB, p50 above that alone", milliseconds(median(beside))-base, 15, "ms")),
		byClock(atMost("cancel beside 64 MiB, until the slot serves again (the handler looks every 20 ms)", milliseconds(median(lags)), 120, "ms")))
	s.expectIdle()
}

// cancelLag is how long it takes from a cancel of a call until the slot that it had serves another one.
func (s *stage) cancelLag() time.Duration {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.callIn(ctx, "sleep", arguments{"seconds": number(20)})
	}()
	fixture.Eventually(s.t, 10*time.Second, "a call to cancel", func() error {
		if n := s.metric("snakepit_router_calls_in_flight"); n != "2" {
			return fmt.Errorf("%s run", n)
		}
		return nil
	})
	at := time.Now()
	cancel()
	a := s.within(10*time.Second, "pid", nil)
	lag := time.Since(at)
	if a.err != nil {
		s.t.Error(a.err)
	}
	<-ended
	return lag
}
