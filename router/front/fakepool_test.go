package front

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	rpcv1alpha1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
)

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
