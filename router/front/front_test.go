package front

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	rpcv1alpha1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
