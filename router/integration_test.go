package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	rpcv1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/bridge/fakeworker"
)

// The whole way without Kubernetes: the real router binary, a real supervisor, real Python workers.

const python = "../.venv/bin/python"

func TestStoryOfARouterAndItsWorkers(t *testing.T) {
	s := newStage(t, "workers: 2\ndrain: {timeout: 2s}\n")
	s.expectReady(2)
	if a := s.call("add", map[string]*rpcv1.Value{"a": integer(1), "b": integer(2)}); a.err != nil || a.value.GetInteger() != 3 {
		t.Fatalf("add: %v, %v", a.value, a.err)
	}
	if a := s.call("ad", nil); status.Code(a.err) != codes.NotFound || a.reason() != "TOOL_UNKNOWN" {
		t.Fatalf("unknown tool: %v", a.err)
	}
	t.Run("stream", func(t *testing.T) { s.streamStory(t) })
	first := s.expectCount(1, "one", "snakepit-session-create", "true")
	if got := first.header.Get("snakepit-session-state"); len(got) != 1 || got[0] != "new" {
		t.Fatalf("state of the first call: %v", got)
	}
	token := []string{"snakepit-session-token", first.token()}
	s.expectCount(2, "one", token...)
	s.expectCount(3, "one", token...)
	t.Run("worker killed", func(t *testing.T) { s.workerKilledStory(t) })
	t.Run("router killed", func(t *testing.T) { s.routerKilledStory(t) })
	t.Run("scale", func(t *testing.T) { s.scaleStory(t) })
	if got := s.metric("snakepit_router_calls_in_flight"); got != "0" {
		t.Errorf("calls in flight at the end: %s", got)
	}
}

func (s *stage) streamStory(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := s.client.ExecuteStream(ctx, &rpcv1.ExecuteRequest{Tool: "countdown", Arguments: map[string]*rpcv1.Value{"start": integer(3)}})
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.GetValue().GetInteger())
	}
	if fmt.Sprint(got) != "[3 2 1]" {
		t.Fatalf("countdown: %v", got)
	}
}

func (s *stage) workerKilledStory(t *testing.T) {
	a := s.call("whoami", nil, "snakepit-session", "victim", "snakepit-session-create", "true")
	if a.err != nil {
		t.Fatal(a.err)
	}
	pid := int(a.value.GetMap().GetFields()["pid"].GetInteger())
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() string {
		if why := s.call("count", nil, "snakepit-session", "victim"); why.reason() != "SESSION_LOST" {
			return fmt.Sprint(why.err)
		}
		return ""
	})
	told := s.call("count", nil, "snakepit-session", "victim", "snakepit-session-token", a.token())
	if told.reason() != "SESSION_LOST" || status.Code(told.err) != codes.Aborted {
		t.Fatalf("with the token of the lost life: %v", told.err)
	}
	if got := told.trailer.Get("grpc-retry-pushback-ms"); len(got) != 1 || got[0] != "-1" {
		t.Fatalf("no-retry mark: %v", got)
	}
	if after := s.call("count", nil, "snakepit-session", "victim"); after.reason() != "SESSION_UNKNOWN" {
		t.Fatalf("after it was acknowledged: %v", after.err)
	}
	s.expectReady(2)
	s.expectCount(1, "victim", "snakepit-session-create", "true")
}

func (s *stage) routerKilledStory(t *testing.T) {
	kept := s.expectCount(1, "kept", "snakepit-session-create", "true")
	s.expectCount(2, "kept", "snakepit-session-token", kept.token())
	s.killRouter()
	s.startRouter()
	eventually(t, 10*time.Second, func() string {
		a := s.call("count", nil, "snakepit-session", "kept", "snakepit-session-token", kept.token())
		switch {
		case a.err == nil && a.value.GetInteger() == 3:
			return ""
		case status.Code(a.err) == codes.Unavailable: // not listening yet, or RECOVERING
			return a.err.Error()
		}
		t.Fatalf("after the router's restart: %v, %v", a.value, a.err)
		return ""
	})
	s.expectReady(2)
	s.expectCount(4, "kept", "snakepit-session-token", kept.token())
}

func (s *stage) scaleStory(t *testing.T) {
	s.configure("workers: 5\ndrain: {timeout: 2s}\n")
	s.expectReady(5)
	lives := map[string]string{}
	for i := range 5 {
		name := fmt.Sprint("scaled-", i)
		lives[name] = s.expectCount(1, name, "snakepit-session-create", "true").token()
	}
	s.configure("workers: 1\ndrain: {timeout: 2s}\n")
	s.expectReady(1)
	kept, lost := 0, 0
	eventually(t, 10*time.Second, func() string {
		kept, lost = 0, 0
		for name, token := range lives {
			a := s.call("count", nil, "snakepit-session", name, "snakepit-session-token", token)
			switch {
			case a.err == nil:
				kept++
			case a.reason() == "SESSION_LOST":
				lost++
			default:
				return a.err.Error()
			}
		}
		if lost == 0 || kept+lost != len(lives) {
			return fmt.Sprintf("%d kept, %d lost", kept, lost)
		}
		return ""
	})
	if got := s.metric(`snakepit_router_sessions_lost_total{cause="SCALED_DOWN"}`); got == "0" || got == "" {
		t.Errorf("sessions lost by scaling down: %q", got)
	}
}

func TestCallsAreCancelledAndTimedOut(t *testing.T) {
	s := newStage(t, "workers: 1\ncalls: {timeout: 300ms, killAfter: 10s}\ndrain: {timeout: 1s}\n")
	s.expectReady(1)
	if a := s.call("sleep", map[string]*rpcv1.Value{"seconds": number(30)}); a.reason() != "CALL_TIMEOUT" && a.err != nil {
		t.Fatalf("a call beyond calls.timeout: %v", a.err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := s.client.Execute(ctx, &rpcv1.ExecuteRequest{Tool: "sleep", Arguments: map[string]*rpcv1.Value{"seconds": number(30)}})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Fatalf("a call beyond its deadline: %v", err)
	}
	eventually(t, 5*time.Second, func() string {
		if got := s.metric("snakepit_router_calls_in_flight"); got != "0" {
			return "in flight: " + got
		}
		return ""
	})
}

func TestDrainBySupervisor(t *testing.T) {
	s := newStage(t, "workers: 2\ndrain: {timeout: 2s}\n")
	s.expectReady(2)
	running := make(chan answer, 1)
	go func() { running <- s.call("sleep", map[string]*rpcv1.Value{"seconds": number(1)}) }()
	eventually(t, 5*time.Second, func() string {
		if s.metric("snakepit_router_calls_in_flight") != "1" {
			return "the call does not run yet"
		}
		return ""
	})
	if err := s.supervisor.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() string {
		if a := s.call("add", map[string]*rpcv1.Value{"a": integer(1), "b": integer(1)}); a.reason() != "DRAINING" {
			return fmt.Sprint("a new call: ", a.err)
		}
		return ""
	})
	if a := <-running; a.err != nil {
		t.Errorf("the running call: %v", a.err)
	}
	if err := s.supervisor.Wait(); err != nil {
		t.Errorf("the supervisor's end: %v", err)
	}
}

func TestBadCommandLines(t *testing.T) {
	for args, want := range map[string]string{
		"":                                  "give --config FILE, or --namespace and --group",
		"--config x --group y":              "leave --namespace and --group out",
		"--config x extra":                  "unexpected argument",
		"--namespace a --group b":           "SNAKEPIT_POD_UID is not set",
		"--config pool.yaml --bridge-sock=": "flag provided but not defined",
	} {
		t.Setenv("SNAKEPIT_POD_UID", "")
		var stderr bytes.Buffer
		old := os.Stderr
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		os.Stderr = w
		_, got := parseOptions(strings.Fields(args))
		os.Stderr = old
		_ = w.Close()
		_, _ = stderr.ReadFrom(r)
		if got == nil || !strings.Contains(got.Error(), want) {
			t.Errorf("%q: %v; want %q", args, got, want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// The router binary with a worker of bridge version 2 that a test plays: what a caller of a gRPC method sees.
func TestMethodsOfAServicer(t *testing.T) {
	s := &stage{t: t, listen: freeAddress(t), admin: freeAddress(t)}
	dir, err := os.MkdirTemp("", "spk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s.dir = dir
	if s.binary, err = buildRouter(); err != nil {
		t.Fatal(err)
	}
	s.configure("workers: 1\ndrain: {timeout: 1s}\n")
	s.startRouter()
	t.Cleanup(func() { s.stop(s.router) })
	eventually(t, 10*time.Second, func() string {
		probe, err := net.Dial("unix", s.socket())
		if err != nil {
			return err.Error()
		}
		return errText(probe.Close())
	})
	sup := fakeworker.DialSupervisor(t, s.socket(), "local")
	w := fakeworker.DialWorkerSaying(t, s.socket(), sup.Started(0, 1), &bridgev1.Hello{Methods: []*bridgev1.Method{
		{Path: "/demo.Echo/Unary"}, {Path: "/demo.Echo/Chat", ClientStreaming: true, ServerStreaming: true}}})
	conn, err := grpc.NewClient("passthrough:///"+s.listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	s.expectReady(1)
	t.Run("unary", func(t *testing.T) { unaryStory(t, conn, w) })
	t.Run("both ways", func(t *testing.T) { chatStory(t, conn, w) })
	t.Run("reflection", func(t *testing.T) {
		stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil || !strings.Contains(answer.String(), "demo.Echo") {
			t.Fatalf("%v, %v", answer, err)
		}
	})
	err = conn.Invoke(t.Context(), "/demo.Echo/Unari", &wrapperspb.BytesValue{}, &wrapperspb.BytesValue{})
	if a := (answer{err: err}); a.reason() != "METHOD_UNKNOWN" || !strings.Contains(err.Error(), "/demo.Echo/Unary") {
		t.Errorf("%v", err)
	}
}

func unaryStory(t *testing.T, conn *grpc.ClientConn, w *fakeworker.Worker) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "key-bin", "\x00\x01", "key-bin", "\x02"), 10*time.Second)
	defer cancel()
	done := make(chan error, 1)
	out, header, trailer := &wrapperspb.BytesValue{}, metadata.MD{}, metadata.MD{}
	invoke := func(size int) {
		done <- conn.Invoke(ctx, "/demo.Echo/Unary", wrapperspb.Bytes(make([]byte, size)), out, grpc.Header(&header), grpc.Trailer(&trailer))
	}
	go invoke(3 << 20)
	f := w.Data.Expect(bridge.KindCall)
	info := &bridgev1.CallInfo{}
	if err := proto.Unmarshal(f.Ext, info); err != nil || !strings.HasPrefix(info.GetPeer(), "ipv4:127.0.0.1:") || len(info.GetMetadata()) != 3 {
		t.Fatalf("%v, %v", info, err)
	}
	w.Accept(f.ID)
	request := append([]byte(nil), f.Payload...)
	for f.Flags&bridge.FlagEndMessage == 0 {
		f = w.Data.Expect(bridge.KindMessage)
		request = append(request, f.Payload...)
		w.Control.Send(&bridge.Frame{Kind: bridge.KindWindow, ID: f.ID, Bytes: uint32(len(f.Payload))})
	}
	w.Data.SendExt(&bridge.Frame{Kind: bridge.KindFinish, ID: f.ID, Flags: 3, Payload: request[:0]}, &bridgev1.FinishInfo{
		Headers: []*bridgev1.Metadatum{{Key: "h", Value: []byte("1")}}, Trailers: []*bridgev1.Metadatum{{Key: "t-bin", Value: []byte{0}}}})
	if err := <-done; err != nil || len(request) < 3<<20 || len(header.Get("h")) != 1 || trailer.Get("t-bin")[0] != "\x00" {
		t.Fatalf("%d bytes came; %v, headers %v, trailers %v", len(request), err, header, trailer)
	}
	go invoke(1)
	f = w.Data.Expect(bridge.KindCall)
	w.Accept(f.ID)
	w.Data.SendExt(&bridge.Frame{Kind: bridge.KindFinish, ID: f.ID, Code: 5}, &bridgev1.FinishInfo{Message: "ничего"})
	if st := status.Convert(<-done); st.Code() != codes.NotFound || st.Message() != "ничего" || len(st.Details()) != 0 {
		t.Fatalf("%v", st)
	}
}

func chatStory(t *testing.T, conn *grpc.ClientConn, w *fakeworker.Worker) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/demo.Echo/Chat")
	if err != nil {
		t.Fatal(err)
	}
	id := w.Data.Expect(bridge.KindCall).ID
	w.Accept(id)
	w.Data.SendExt(&bridge.Frame{Kind: bridge.KindHeaders, ID: id}, &bridgev1.HeadersInfo{Metadata: []*bridgev1.Metadatum{{Key: "early", Value: []byte("yes")}}})
	if header, err := stream.Header(); err != nil || len(header.Get("early")) != 1 { // before any message, in either direction
		t.Fatalf("%v, %v", header, err)
	}
	for i := range 3 {
		if err := stream.SendMsg(wrapperspb.Bytes([]byte{byte(i)})); err != nil {
			t.Fatal(err)
		}
		f := w.Data.Expect(bridge.KindMessage)
		w.Data.Send(&bridge.Frame{Kind: bridge.KindMessage, ID: id, Flags: 3, Payload: f.Payload})
		got := &wrapperspb.BytesValue{}
		if err := stream.RecvMsg(got); err != nil || got.Value[0] != byte(i) {
			t.Fatalf("%v, %v", got, err)
		}
	}
	_ = w.Data.Conn.Close() // the stream breaks in the middle
	a := answer{err: stream.RecvMsg(&wrapperspb.BytesValue{})}
	if a.reason() != "WORKER_DIED" {
		t.Fatalf("%v", a.err)
	}
	for _, d := range status.Convert(a.err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetMetadata()["delivered"] != "3" {
			t.Errorf("delivered: %v", info.GetMetadata())
		}
	}
}
