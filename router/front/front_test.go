package front

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	rpcv1alpha1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakePool answers every call with the messages and the end it was given, and remembers what it saw.
type fakePool struct {
	mu       sync.Mutex
	admit    error
	messages [][]byte
	headers  metadata.MD
	trailers metadata.MD
	end      error
	answer   Answer
	limit    int64
	declared *Declared
	hidden   bool // no worker has declared anything before one is reserved

	call     *Call
	request  []byte
	ahead    bool // it came with Admit
	released int
	observed []string
}

func (p *fakePool) Admit(call *Call) (Exchange, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.call = call
	if p.admit != nil {
		return nil, p.admit
	}
	if p.ahead = call.Ready && call.Request != nil; call.Ready {
		p.request = call.Request.Materialize()
	}
	return &fakeExchange{pool: p, rest: p.messages, sent: make(chan string, 100), closed: make(chan struct{})}, nil
}

func (p *fakePool) OpenSession(_ context.Context, call *Call) (Session, error) {
	p.call = call
	return Session{Name: call.Session, Epoch: 7, Answer: p.answer}, p.admit
}

func (p *fakePool) CloseSession(_ context.Context, call *Call) (bool, error) {
	return call.Session == "open", p.admit
}

func (p *fakePool) GetSession(call *Call) (Session, error) {
	return Session{Name: call.Session, Epoch: 7, Pending: 2, Answer: p.answer}, p.admit
}

var offered = NewDeclared(
	[]Tool{{Name: "add"}, {Name: "count"}, {Name: "lines", Streaming: true}},
	[]Method{{Path: "/demo.Echo/Unary"}, {Path: "/demo.Echo/Lines", ServerStream: true}, {Path: "/demo.Echo/Chat", ClientStream: true, ServerStream: true}},
	nil)

func (p *fakePool) Declared() *Declared {
	if p.hidden {
		return nil
	}
	return p.offers()
}

func (p *fakePool) offers() *Declared {
	if p.declared != nil {
		return p.declared
	}
	return offered
}

func (p *fakePool) MaxMessageBytes() int64      { return p.limit }
func (p *fakePool) QueueTimeout() time.Duration { return 100 * time.Millisecond }

func (p *fakePool) Called(target string, code codes.Code, reason Reason, _ time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.observed = append(p.observed, target+" "+code.String()+" "+string(reason))
}

type fakeExchange struct {
	pool   *fakePool
	rest   [][]byte
	sent   chan string
	closed chan struct{}
}

func (x *fakeExchange) Wait(context.Context) error { return nil }
func (x *fakeExchange) Answer() *Answer            { return &x.pool.answer }
func (x *fakeExchange) Declared() *Declared        { return x.pool.offers() }

func (x *fakeExchange) Start(context.Context) error {
	x.pool.request = x.pool.call.Request.Materialize()
	return nil
}

func (x *fakeExchange) Send(_ context.Context, m mem.BufferSlice) error {
	x.sent <- string(m.Materialize())
	return nil
}

func (x *fakeExchange) CloseSend(context.Context) error {
	close(x.closed)
	return nil
}

// Recv answers a stream of requests with its messages, any other call with what the pool was given.
func (x *fakeExchange) Recv(ctx context.Context) (Reply, error) {
	if x.pool.call.ClientStream {
		select {
		case text := <-x.sent:
			return Reply{Message: mem.BufferSlice{mem.SliceBuffer(text)}, HasMessage: true}, nil
		case <-x.closed:
			return Reply{Trailers: x.pool.trailers}, x.over()
		case <-ctx.Done():
			return Reply{}, ctx.Err()
		}
	}
	x.pool.mu.Lock()
	headers, end := x.pool.headers, x.pool.end
	x.pool.headers = nil
	x.pool.mu.Unlock()
	if len(x.rest) == 0 {
		if errors.Is(end, errWait) {
			<-ctx.Done()
			return Reply{}, ctx.Err()
		}
		return Reply{Headers: headers, Trailers: x.pool.trailers}, x.over()
	}
	next := x.rest[0]
	x.rest = x.rest[1:]
	return Reply{Headers: headers, Message: mem.BufferSlice{mem.SliceBuffer(next)}, HasMessage: true}, nil
}

func (x *fakeExchange) over() error {
	if x.pool.end == nil {
		return io.EOF
	}
	return x.pool.end
}

func (x *fakeExchange) Release() {
	x.pool.mu.Lock()
	defer x.pool.mu.Unlock()
	x.pool.released++
}

var errWait = errors.New("wait for the caller")

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func answerText(t *testing.T, text string) []byte {
	return encode(t, &rpcv1alpha1.ExecuteResponse{Outcome: &rpcv1alpha1.ExecuteResponse_Result{
		Result: &rpcv1alpha1.Value{Kind: &rpcv1alpha1.Value_Text{Text: text}}}})
}

// serve starts the front on a listener in memory and returns a connection to it.
func serve(t *testing.T, pool *fakePool, options ...Option) (*Server, *grpc.ClientConn) {
	t.Helper()
	if pool.limit == 0 {
		pool.limit = 1 << 20
	}
	listener := bufconn.Listen(1 << 20)
	server := New(pool, pool, time.Now, options...)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		server.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return server, conn
}

func withMetadata(pairs ...string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), pairs...)
}

func reasonOf(t *testing.T, err error) (codes.Code, *errdetails.ErrorInfo) {
	t.Helper()
	st := status.Convert(err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			if info.Domain != Domain {
				t.Errorf("domain %q", info.Domain)
			}
			return st.Code(), info
		}
	}
	t.Fatalf("no ErrorInfo in %v", err)
	return 0, nil
}

func TestExecutePassesBytesAndHeaders(t *testing.T) {
	pool := &fakePool{messages: [][]byte{answerText(t, "yes")}, answer: Answer{Worker: "p-0/3/abc", SessionState: "new", SessionToken: "tok"}}
	_, conn := serve(t, pool)
	arguments, _ := structpb.NewStruct(map[string]any{"a": 1})
	request := &rpcv1alpha1.ExecuteRequest{Tool: "add", Json: arguments}
	var header metadata.MD
	ctx := withMetadata("snakepit-session", "alice", "snakepit-session-create", "true", "snakepit-request-id", "r-1")
	response, err := rpcv1alpha1.NewPoolClient(conn).Execute(ctx, request, grpc.Header(&header))
	if err != nil || response.GetResult().GetText() != "yes" {
		t.Fatalf("%v, %v", response, err)
	}
	if !proto.Equal(request, decodeRequest(t, pool.request)) {
		t.Errorf("the worker would see %q", pool.request)
	}
	for key, want := range map[string]string{keyWorker: "p-0/3/abc", keySessionState: "new", keySessionToken: "tok", keyRequestID: "r-1"} {
		if got := header.Get(key); len(got) != 1 || got[0] != want {
			t.Errorf("header %s = %v, want %s", key, got, want)
		}
	}
	if pool.call.Session != "alice" || !pool.call.Create || pool.call.RequestID != "r-1" {
		t.Errorf("admitted as %+v", pool.call)
	}
	if pool.released != 1 || len(pool.observed) != 1 || pool.observed[0] != "add OK " {
		t.Errorf("released %d, observed %v", pool.released, pool.observed)
	}
}

func decodeRequest(t *testing.T, data []byte) *rpcv1alpha1.ExecuteRequest {
	t.Helper()
	var r rpcv1alpha1.ExecuteRequest
	if err := proto.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

func TestStreamKeepsOrder(t *testing.T) {
	var messages [][]byte
	for i := range 5 {
		messages = append(messages, encode(t, &rpcv1alpha1.ExecuteStreamResponse{Sequence: uint64(i + 1)}))
	}
	_, conn := serve(t, &fakePool{messages: messages})
	stream, err := rpcv1alpha1.NewPoolClient(conn).ExecuteStream(context.Background(), &rpcv1alpha1.ExecuteRequest{Tool: "lines"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		m, err := stream.Recv()
		if err != nil || m.Sequence != uint64(i+1) {
			t.Fatalf("message %d: %v, %v", i, m, err)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("the end: %v", err)
	}
}

func TestRefusalsAreTrailersOnly(t *testing.T) {
	cases := map[string]struct {
		failure  Failure
		code     codes.Code
		pushback string
	}{
		"queue full":      {Failure{Reason: ReasonQueueFull, Wait: 250 * time.Millisecond}, codes.ResourceExhausted, "250"},
		"session lost":    {Failure{Reason: ReasonSessionLost}, codes.Aborted, "-1"},
		"died before":     {Failure{Reason: ReasonWorkerDied, Execution: NotStarted, Wait: time.Second}, codes.Unavailable, "1000"},
		"died within":     {Failure{Reason: ReasonWorkerDied, Execution: MaybeExecuted}, codes.Aborted, "-1"},
		"unknown session": {Failure{Reason: ReasonSessionUnknown}, codes.FailedPrecondition, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			failure := c.failure
			_, conn := serve(t, &fakePool{admit: &failure})
			var header, trailer metadata.MD
			_, err := rpcv1alpha1.NewPoolClient(conn).Execute(context.Background(), &rpcv1alpha1.ExecuteRequest{Tool: "add"},
				grpc.Header(&header), grpc.Trailer(&trailer))
			code, info := reasonOf(t, err)
			if code != c.code || info.Reason != string(failure.Reason) || info.Metadata["execution"] == "" {
				t.Errorf("%s, %v", code, info)
			}
			if got := strings.Join(trailer.Get(keyPushback), ","); got != c.pushback {
				t.Errorf("pushback %q, want %q", got, c.pushback)
			}
			if len(header.Get(keyWorker)) != 0 {
				t.Errorf("headers %v came before the refusal", header)
			}
		})
	}
}

func TestFailureCarriesBodyAndDetails(t *testing.T) {
	body := encode(t, &rpcv1alpha1.ExecuteResponse{Outcome: &rpcv1alpha1.ExecuteResponse_Error{Error: &rpcv1alpha1.RemoteError{Type: "ValueError", Traceback: "long"}}})
	pool := &fakePool{messages: [][]byte{body}, end: &Failure{
		Reason: ReasonAdapterException, Execution: Failed, Message: strings.Repeat("x", 5000),
		Info: map[string]string{"type": strings.Repeat("T", 5000)}, Traceback: strings.Repeat("frame\n", 5000),
	}}
	_, conn := serve(t, pool)
	stream, err := conn.NewStream(context.Background(), &grpc.StreamDesc{ServerStreams: true}, "/snakepit.v1alpha1.Pool/Execute")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stream.SendMsg(&rpcv1alpha1.ExecuteRequest{Tool: "add"}), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	var got rpcv1alpha1.ExecuteResponse
	if err := stream.RecvMsg(&got); err != nil || got.GetError().GetType() != "ValueError" {
		t.Fatalf("body: %v, %v", &got, err)
	}
	code, info := reasonOf(t, stream.RecvMsg(&got))
	if code != codes.Unknown || info.Metadata["execution"] != string(Failed) {
		t.Errorf("%s %v", code, info)
	}
	if size := len(strings.Join(stream.Trailer().Get("grpc-status-details-bin"), "")); size > 4096 {
		t.Errorf("details have %d bytes, want at most 4096", size)
	}
}

func TestMetadataIsRefusedOrTaken(t *testing.T) {
	long := strings.Repeat("a", 129)
	cases := []struct {
		name  string
		pairs []string
		field string
	}{
		{"session twice", []string{keySession, "a", keySession, "b"}, keySession},
		{"session joined by a comma", []string{keySession, "a,b"}, keySession},
		{"session too long", []string{keySession, long}, keySession},
		{"session empty", []string{keySession, ""}, keySession},
		{"session with a space", []string{keySession, "a b"}, keySession},
		{"token without session", []string{keySessionToken, "abc"}, keySession},
		{"create without session", []string{keySessionCreate, "true"}, keySession},
		{"create is not true", []string{keySession, "a", keySessionCreate, "yes"}, keySessionCreate},
		{"affinity unknown", []string{keyAffinity, "sticky"}, keyAffinity},
		{"token not base64url", []string{keySession, "a", keySessionToken, "a+b"}, keySessionToken},
		{"request id twice", []string{keyRequestID, "a", keyRequestID, "a"}, keyRequestID},
	}
	pool := &fakePool{}
	_, conn := serve(t, pool)
	for _, c := range cases {
		_, err := rpcv1alpha1.NewPoolClient(conn).Execute(withMetadata(c.pairs...), &rpcv1alpha1.ExecuteRequest{Tool: "add"})
		code, info := reasonOf(t, err)
		if code != codes.InvalidArgument || info.Reason != string(ReasonArgumentInvalid) || !strings.Contains(status.Convert(err).Message(), c.field) {
			t.Errorf("%s: %s %v %v", c.name, code, info, err)
		}
	}
	if pool.call != nil {
		t.Errorf("a refused call was admitted: %+v", pool.call)
	}
}

func TestToolIsFoundOrNamed(t *testing.T) {
	pool := &fakePool{}
	_, conn := serve(t, pool)
	client := rpcv1alpha1.NewPoolClient(conn)
	_, err := client.Execute(context.Background(), &rpcv1alpha1.ExecuteRequest{Tool: "cuont"})
	if code, info := reasonOf(t, err); code != codes.NotFound || info.Metadata["nearest"] != "count" {
		t.Errorf("misspelt tool: %v", err)
	}
	_, err = client.Execute(context.Background(), &rpcv1alpha1.ExecuteRequest{Tool: "lines"})
	if code, _ := reasonOf(t, err); code != codes.InvalidArgument || !strings.Contains(err.Error(), "ExecuteStream") {
		t.Errorf("stream by Execute: %v", err)
	}
	_, err = client.Execute(context.Background(), &rpcv1alpha1.ExecuteRequest{})
	if code, _ := reasonOf(t, err); code != codes.InvalidArgument {
		t.Errorf("no tool: %v", err)
	}
	if pool.call != nil {
		t.Errorf("admitted what no tool would serve: %+v", pool.call)
	}
}

func TestLimitsAreLive(t *testing.T) {
	pool := &fakePool{limit: 2048}
	_, conn := serve(t, pool)
	big, _ := structpb.NewStruct(map[string]any{"a": strings.Repeat("x", 4096)})
	_, err := rpcv1alpha1.NewPoolClient(conn).Execute(context.Background(), &rpcv1alpha1.ExecuteRequest{Tool: "add", Json: big})
	if code, info := reasonOf(t, err); code != codes.ResourceExhausted || info.Reason != string(ReasonMessageTooLarge) || info.Metadata["limit"] != "2048" {
		t.Errorf("%v", err)
	}
}

func TestCallerGoesAway(t *testing.T) {
	pool := &fakePool{end: errWait}
	_, conn := serve(t, pool)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := rpcv1alpha1.NewPoolClient(conn).Execute(ctx, &rpcv1alpha1.ExecuteRequest{Tool: "add"})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("%v", err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		pool.mu.Lock()
		released := pool.released
		pool.mu.Unlock()
		if released == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the reservation was not released")
		}
		<-time.After(time.Millisecond)
	}
}

func TestSessionsAndTools(t *testing.T) {
	_, conn := serve(t, &fakePool{answer: Answer{Worker: "w", SessionState: "bound", SessionToken: "tok"}})
	client := rpcv1alpha1.NewPoolClient(conn)
	ctx := withMetadata(keySession, "open")
	opened, err := client.OpenSession(ctx, &rpcv1alpha1.OpenSessionRequest{})
	if err != nil || opened.Session.Name != "open" || opened.Session.Token != "tok" || opened.Session.Epoch != 7 {
		t.Errorf("open: %v, %v", opened, err)
	}
	got, err := client.GetSession(ctx, &rpcv1alpha1.GetSessionRequest{})
	if err != nil || got.Session.Pending != 2 || got.Session.State != "bound" {
		t.Errorf("get: %v, %v", got, err)
	}
	closed, err := client.CloseSession(ctx, &rpcv1alpha1.CloseSessionRequest{})
	if err != nil || !closed.Closed {
		t.Errorf("close: %v, %v", closed, err)
	}
	if _, err := client.CloseSession(context.Background(), &rpcv1alpha1.CloseSessionRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("close without a name: %v", err)
	}
	tools, err := client.ListTools(context.Background(), &rpcv1alpha1.ListToolsRequest{})
	if err != nil || len(tools.Tools) != 3 || !tools.Tools[2].Streaming {
		t.Errorf("tools: %v, %v", tools, err)
	}
}

func TestHealthAndUnknownMethod(t *testing.T) {
	server, conn := serve(t, &fakePool{})
	check := func(service string) healthpb.HealthCheckResponse_ServingStatus {
		r, err := healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	if check("") != healthpb.HealthCheckResponse_SERVING || check(HealthService) != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Error("before a worker is ready the router serves and the pool does not")
	}
	server.SetServing(true)
	if check(HealthService) != healthpb.HealthCheckResponse_SERVING {
		t.Error("with a ready worker the pool serves")
	}
	err := conn.Invoke(context.Background(), "/other.Service/Method", &rpcv1alpha1.ListToolsRequest{}, &rpcv1alpha1.ListToolsResponse{})
	if code, info := reasonOf(t, err); code != codes.Unimplemented || info.Reason != string(ReasonMethodUnknown) {
		t.Errorf("unknown method: %v", err)
	}
}
