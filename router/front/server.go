package front

import (
	"context"
	"math/rand/v2"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	rpcv1alpha1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
)

// Limits of the gRPC server. grpc-go's own defaults are unbounded.
const (
	// MaxMessageBytes is the most that calls.maxMessageBytes may allow; the live limit is checked on each message.
	MaxMessageBytes      = 1 << 30
	maxConcurrentStreams = 1000
	maxHeaderListBytes   = 64 << 10 // the 32 KiB of a caller's metadata, and what HTTP/2 counts on top
	maxConnections       = 1024
	connectionIdle       = 15 * time.Minute
	connectionAge        = time.Hour
	connectionAgeGrace   = 5 * time.Minute
	handshakeTimeout     = 5 * time.Second
	minPingInterval      = 10 * time.Second
	// A caller whose machine vanished is noticed, and its calls are cancelled.
	keepaliveTime    = 30 * time.Second
	keepaliveTimeout = 20 * time.Second
	// Windows do not grow by themselves: a waiting call costs at most one of a stream. A message that is read gets what it needs.
	streamWindow     = 64 << 10
	connectionWindow = 1 << 20
	// streamWorkers keep their stacks from call to call; calls beyond their number get goroutines of their own.
	streamWorkers = 64
	// aheadShare is the part of the byte budget that may be read before it has a worker: an eighth.
	aheadShare = 8
)

// HealthService is the name under which health v1 says whether a worker is ready; "" says that the router serves.
const HealthService = "snakepit.v1alpha1.Pool"

// Server serves callers.
type Server struct {
	pool     Pool
	observer Observer
	now      Clock
	grpc     *grpc.Server
	health   *health.Server
	budget   *budget
	ahead    *budget // of budget, for requests above readAhead that are read before their call is admitted
	answers  *Answers
	patience time.Duration // RequestTimeout, but in tests
}

// Option changes a Server.
type Option func(*Server)

// MessageBudget bounds the bytes of requests in flight, in place of DefaultBudget. At least one message of the size that is allowed when the server
// is made always fits.
func MessageBudget(bytes int64) Option {
	return func(s *Server) { s.budget = newBudget(max(bytes, s.pool.MaxMessageBytes())) }
}

// New makes a server that serves once Serve is called.
func New(pool Pool, observer Observer, now Clock, options ...Option) *Server {
	s := &Server{pool: pool, observer: observer, now: now, health: health.NewServer(), patience: RequestTimeout}
	for _, option := range append([]Option{MessageBudget(DefaultBudget())}, options...) {
		option(s)
	}
	s.ahead = newBudget(s.budget.total / aheadShare)
	s.answers = NewAnswers(s.budget.total)
	s.grpc = grpc.NewServer(s.options()...)
	s.grpc.RegisterService(s.description(), nil)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	s.describe()
	s.SetServing(false)
	return s
}

func (s *Server) options() []grpc.ServerOption {
	age := connectionAge + time.Duration(rand.Int64N(int64(connectionAge/5))) - connectionAge/10
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.InTapHandle(keepHeaders),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return s.serve(stream, direct) }),
		grpc.MaxConcurrentStreams(maxConcurrentStreams),
		grpc.MaxHeaderListSize(maxHeaderListBytes),
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connectionWindow),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: connectionIdle, MaxConnectionAge: age, MaxConnectionAgeGrace: connectionAgeGrace,
			Time: keepaliveTime, Timeout: keepaliveTimeout,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
	}
}

// description registers every method of the generic API as a raw stream, so that a call is admitted before its message is read.
func (s *Server) description() *grpc.ServiceDesc {
	tools := func(run func(*caller) error) grpc.StreamHandler {
		return func(_ any, stream grpc.ServerStream) error { return s.serve(stream, run) }
	}
	raw := func(name string, serverStreams bool, handler grpc.StreamHandler) grpc.StreamDesc {
		return grpc.StreamDesc{StreamName: name, Handler: handler, ServerStreams: serverStreams}
	}
	return &grpc.ServiceDesc{
		ServiceName: rpcv1alpha1.Pool_ServiceDesc.ServiceName,
		Metadata:    rpcv1alpha1.Pool_ServiceDesc.Metadata,
		Streams: []grpc.StreamDesc{
			raw("Execute", false, tools(execute)),
			raw("ExecuteStream", true, tools(executeStream)),
			raw("OpenSession", false, s.small("OpenSession", true, s.openSession)),
			raw("CloseSession", false, s.small("CloseSession", true, s.closeSession)),
			raw("GetSession", false, s.small("GetSession", true, s.getSession)),
			raw("ListTools", false, s.small("ListTools", false, s.listTools)),
		},
	}
}

// SetServing says in health v1 whether a worker is ready.
func (s *Server) SetServing(serving bool) {
	state := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		state = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus(HealthService, state)
}

// Serve accepts callers until Shutdown.
func (s *Server) Serve(listener net.Listener) error {
	return s.grpc.Serve(limitConnections(listener, maxConnections, s.answers))
}

// Shutdown tells callers to go elsewhere (GOAWAY) and waits for running calls until the context ends; then it ends them.
func (s *Server) Shutdown(ctx context.Context) {
	s.health.Shutdown()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
}
