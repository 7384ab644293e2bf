package front

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// rawCodec is a caller's codec for bytes.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*(v.(*[]byte)) = data.Materialize()
	return nil
}

var raw = grpc.ForceCodecV2(rawCodec{})

func TestAUnaryMethodPassesThrough(t *testing.T) {
	pool := &fakePool{messages: [][]byte{[]byte("answer")}, headers: metadata.Pairs("h", "1", "h", "2"), trailers: metadata.Pairs("t-bin", "\x00\xff")}
	_, conn := serve(t, pool)
	var got []byte
	var header, trailer metadata.MD
	ctx := withMetadata("b", "2", "b", "1", "a-bin", "\x00\x01", "snakepit-tenant", "blue", "snakepit-idempotent", "true")
	if err := conn.Invoke(ctx, "/demo.Echo/Unary", []byte("request"), &got, raw, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil || string(got) != "answer" {
		t.Fatalf("%q, %v", got, err)
	}
	if string(pool.request) != "request" || !pool.call.Ready || pool.call.Way != Direct || pool.call.Tenant != "blue" || !pool.call.Idempotent || pool.call.CallerID {
		t.Fatalf("admitted as %+v with %q", pool.call, pool.request)
	}
	own := ""
	for _, m := range pool.call.Metadata {
		if m.Key != "user-agent" {
			own += fmt.Sprintf("%s=%q ", m.Key, m.Value)
		}
	}
	if own != `a-bin="\x00\x01" b="2" b="1" ` {
		t.Errorf("the worker would see %s", own)
	}
	if fmt.Sprint(header["h"], trailer["t-bin"]) != "[1 2] [\x00\xff]" || len(header.Get(keyRequestID)) != 1 {
		t.Errorf("headers %v, trailers %v", header, trailer)
	}
	if pool.observed[0] != "/demo.Echo/Unary OK " {
		t.Errorf("observed %v", pool.observed)
	}
}

func TestAMethodsOwnFailureIsAsItsServicerGaveIt(t *testing.T) {
	details, err := proto.Marshal(status.New(codes.Aborted, "нет 世界").Proto())
	if err != nil {
		t.Fatal(err)
	}
	pool := &fakePool{end: &Failure{Plain: true, Code: codes.Aborted, Reason: ReasonAdapterException, Execution: Failed, Message: "нет 世界" + strings.Repeat("!", 500),
		Trailers: metadata.Pairs("grpc-status-details-bin", string(details), "own", "1")}}
	_, conn := serve(t, pool)
	var got []byte
	var trailer metadata.MD
	callErr := conn.Invoke(context.Background(), "/demo.Echo/Unary", []byte("x"), &got, raw, grpc.Trailer(&trailer))
	st := status.Convert(callErr)
	if st.Code() != codes.Aborted || len(st.Details()) != 0 || trailer.Get("own")[0] != "1" || len(trailer.Get(keyPushback)) != 0 {
		t.Fatalf("%v, %v", callErr, trailer)
	}
	if got := trailer.Get("grpc-status-details-bin"); len(got) != 1 || got[0] != string(details) {
		t.Fatalf("details %q", got)
	}
}

func TestMessagesPassBothWays(t *testing.T) {
	pool := &fakePool{trailers: metadata.Pairs("t", "1")}
	_, conn := serve(t, pool)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/demo.Echo/Chat", raw)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 { // each is answered before the next is sent; the second has many frames
		sent := bytes.Repeat([]byte{byte('a' + i)}, 1+i*200_000)
		if err := stream.SendMsg(sent); err != nil {
			t.Fatal(err)
		}
		var got []byte
		if err := stream.RecvMsg(&got); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("message %d: %d bytes, %v", i, len(got), err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	var none []byte
	if err := stream.RecvMsg(&none); !errors.Is(err, io.EOF) || stream.Trailer().Get("t")[0] != "1" {
		t.Fatalf("the end: %v", err)
	}
}

func TestAStreamsMessageBeyondTheLimitEndsIt(t *testing.T) {
	pool := &fakePool{limit: 1000}
	_, conn := serve(t, pool)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/demo.Echo/Chat", raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(make([]byte, 1001)); err != nil {
		t.Fatal(err)
	}
	var none []byte
	if code, info := reasonOf(t, stream.RecvMsg(&none)); code != codes.ResourceExhausted || info.Reason != string(ReasonMessageTooLarge) {
		t.Fatalf("%v %v", code, info)
	}
}

func TestABrokenStreamSaysWhatWasDelivered(t *testing.T) {
	pool := &fakePool{messages: [][]byte{{1}, {2}, {3}}, end: &Failure{Reason: ReasonWorkerDied, Execution: MaybeExecuted}}
	_, conn := serve(t, pool)
	stream, err := conn.NewStream(context.Background(), &grpc.StreamDesc{ServerStreams: true}, "/demo.Echo/Lines", raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stream.SendMsg([]byte("x")), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for range 3 {
		if err := stream.RecvMsg(&got); err != nil {
			t.Fatal(err)
		}
	}
	if code, info := reasonOf(t, stream.RecvMsg(&got)); code != codes.Aborted || info.Metadata["delivered"] != "3" {
		t.Fatalf("%v %v", code, info)
	}
}

// A call that comes before any worker has declared anything waits for one, and is resolved then.
func TestACallBeforeTheFirstWorker(t *testing.T) {
	pool := &fakePool{hidden: true, messages: [][]byte{[]byte("answer")}}
	_, conn := serve(t, pool)
	var got []byte
	if err := conn.Invoke(context.Background(), "/demo.Echo/Unary", []byte("request"), &got, raw); err != nil || string(pool.request) != "request" {
		t.Fatalf("%v, %q", err, pool.request)
	}
	err := conn.Invoke(context.Background(), "/demo.Echo/Unari", []byte("request"), &got, raw)
	if code, info := reasonOf(t, err); code != codes.Unimplemented || !strings.HasPrefix(info.Metadata["nearest"], "/demo.Echo/Unary") {
		t.Fatalf("%v", err)
	}
}

func TestUnknownMethodsNameTheNearest(t *testing.T) {
	pool := &fakePool{}
	_, conn := serve(t, pool)
	var got []byte
	for path, want := range map[string]string{
		"/demo.Echo/Unry": "/demo.Echo/Unary", "/snakepit.v1alpha1.Pool/Exekute": "/snakepit.v1alpha1.Pool/Execute",
		"/demo.Echo//Unary": "/demo.Echo/Unary", "/x/y": "", "/" + strings.Repeat("x", 1000) + "/y": "",
	} {
		err := conn.Invoke(context.Background(), path, []byte("x"), &got, raw)
		code, info := reasonOf(t, err)
		if code != codes.Unimplemented || info.Reason != string(ReasonMethodUnknown) || !strings.HasPrefix(info.Metadata["nearest"], want) || want == "" && info.Metadata["nearest"] != "" {
			t.Errorf("%.40s: %v, nearest %q", path, code, info.Metadata["nearest"])
		}
	}
	if pool.call != nil {
		t.Error("a call to nothing was admitted")
	}
}

func TestCompressedRequests(t *testing.T) {
	for _, name := range []string{gzip.Name, "deflate"} {
		pool := &fakePool{messages: [][]byte{bytes.Repeat([]byte("b"), 5000)}, limit: 100_000}
		_, conn := serve(t, pool)
		var got []byte
		text := bytes.Repeat([]byte("a"), 90_000)
		if err := conn.Invoke(context.Background(), "/demo.Echo/Unary", text, &got, raw, grpc.UseCompressor(name)); err != nil || len(got) != 5000 || !bytes.Equal(pool.request, text) {
			t.Fatalf("%s: %d bytes, %v; the worker would see %d", name, len(got), err, len(pool.request))
		}
		bomb := make([]byte, 5<<20) // a few KiB on the wire
		err := conn.Invoke(context.Background(), "/demo.Echo/Unary", bomb, &got, raw, grpc.UseCompressor(name))
		if code, info := reasonOf(t, err); code != codes.ResourceExhausted || info.Reason != string(ReasonMessageTooLarge) {
			t.Fatalf("%s: a bomb: %v", name, err)
		}
	}
}

// demoFile describes a service that this program was not built with, importing a file that it was.
func demoFile(t *testing.T) []byte {
	t.Helper()
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("demo/echo.proto"), Package: proto.String("demo"), Syntax: proto.String("proto3"), Dependency: []string{"google/protobuf/duration.proto"},
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("Note"), Field: []*descriptorpb.FieldDescriptorProto{{
			Name: proto.String("took"), Number: proto.Int32(1), Type: descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum(),
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), TypeName: proto.String(".google.protobuf.Duration")}}}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Echo"), Method: []*descriptorpb.MethodDescriptorProto{{
			Name: proto.String("Unary"), InputType: proto.String(".demo.Note"), OutputType: proto.String(".demo.Note")}}}},
	}
	data, err := proto.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestReflectionListsAndDescribesTheAdaptersServices(t *testing.T) {
	duration, err := proto.Marshal(protodesc.ToFileDescriptorProto(durationpb.File_google_protobuf_duration_proto))
	if err != nil {
		t.Fatal(err)
	}
	pool := &fakePool{declared: NewDeclared(nil, offered.Methods, [][]byte{demoFile(t), duration})}
	_, conn := serve(t, pool)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	names := ""
	for _, s := range ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().GetService() {
		names += s.GetName() + " "
	}
	if !strings.Contains(names, "demo.Echo ") || !strings.Contains(names, "snakepit.v1alpha1.Pool ") {
		t.Errorf("services: %s", names)
	}
	for symbol, file := range map[string]string{"demo.Echo.Unary": "demo/echo.proto", "demo.Note": "demo/echo.proto", "snakepit.v1alpha1.Pool": "pool.proto", "google.protobuf.Duration": "google/protobuf/duration.proto"} {
		got := ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol}})
		var fd descriptorpb.FileDescriptorProto
		files := got.GetFileDescriptorResponse().GetFileDescriptorProto()
		if len(files) == 0 || proto.Unmarshal(files[0], &fd) != nil || !strings.HasSuffix(fd.GetName(), file) {
			t.Errorf("%s: %v in %q", symbol, got.GetErrorResponse(), fd.GetName())
		}
	}
	old, err := reflectionv1alpha.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	//nolint:staticcheck // v1alpha is deprecated, and what older tools speak
	if err := old.Send(&reflectionv1alpha.ServerReflectionRequest{MessageRequest: &reflectionv1alpha.ServerReflectionRequest_FileByFilename{FileByFilename: "demo/echo.proto"}}); err != nil {
		t.Fatal(err)
	}
	if answer, err := old.Recv(); err != nil || !strings.Contains(answer.String(), "demo/echo.proto") {
		t.Errorf("v1alpha: %v, %v", answer, err)
	}
	cancel()
}

func TestDescriptorsThatDoNotFitTogetherDoNoHarm(t *testing.T) {
	for _, files := range [][][]byte{{[]byte("\xff\xff")}, {demoFile(t), demoFile(t)}, {demoFile(t)}, nil} {
		c := &catalogue{pool: &fakePool{declared: NewDeclared(nil, nil, files)}}
		if _, err := c.FindFileByPath("google/protobuf/duration.proto"); err != nil {
			t.Errorf("%d files: %v", len(files), err)
		}
		if _, err := c.FindDescriptorByName("no.Such"); err == nil {
			t.Error("found what is not there")
		}
	}
}

func TestDetailsStayWithinTheirBound(t *testing.T) {
	f := &Failure{Reason: ReasonArgumentInvalid, Message: strings.Repeat("ü", 300), Traceback: strings.Repeat("t", 9000), Info: map[string]string{}}
	for i := range 30 {
		f.Info[fmt.Sprintf("key-%d-%s", i, strings.Repeat("k", 80))] = strings.Repeat("v", 400)
		f.Violations = append(f.Violations, Violation{strings.Repeat("f", 200), strings.Repeat("d", 200)})
	}
	st := status.Convert(f.status())
	if size := proto.Size(st.Proto()); size > maxDetailBytes {
		t.Errorf("%d bytes of details", size)
	}
	if len(st.Details()) != 2 || len(st.Message()) > maxMessageBytes {
		t.Errorf("%d details, message of %d bytes", len(st.Details()), len(st.Message()))
	}
}
