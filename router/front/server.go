package front

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	rpcv1alpha1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
)

// Limits of the gRPC server. grpc-go's own defaults are unbounded.
const (
	// MaxMessageBytes is the most that calls.maxMessageBytes may allow; the live limit is checked on each message.
	MaxMessageBytes      = 1 << 30
	maxConcurrentStreams = 1000
	maxHeaderListBytes   = 32 << 10
	maxConnections       = 1024
	connectionIdle       = 15 * time.Minute
	connectionAge        = time.Hour
	connectionAgeGrace   = 5 * time.Minute
	handshakeTimeout     = 5 * time.Second
	minPingInterval      = 10 * time.Second
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
}

// New makes a server that serves once Serve is called.
func New(pool Pool, observer Observer, now Clock) *Server {
	s := &Server{pool: pool, observer: observer, now: now, health: health.NewServer()}
	age := connectionAge + time.Duration(rand.Int64N(int64(connectionAge/5))) - connectionAge/10
	s.grpc = grpc.NewServer(
		grpc.ForceServerCodecV2(codec{}),
		grpc.UnknownServiceHandler(s.unknownMethod),
		grpc.MaxConcurrentStreams(maxConcurrentStreams),
		grpc.MaxHeaderListSize(maxHeaderListBytes),
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: connectionIdle, MaxConnectionAge: age, MaxConnectionAgeGrace: connectionAgeGrace,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
	)
	s.grpc.RegisterService(s.description(), nil)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.SetServing(false)
	return s
}

// description registers every method of the generic API as a raw stream, so that a call is admitted before its message is read.
func (s *Server) description() *grpc.ServiceDesc {
	execute := func(method Method) grpc.StreamHandler {
		return func(_ any, stream grpc.ServerStream) error { return s.execute(stream, method) }
	}
	raw := func(name string, serverStreams bool, handler grpc.StreamHandler) grpc.StreamDesc {
		return grpc.StreamDesc{StreamName: name, Handler: handler, ServerStreams: serverStreams}
	}
	return &grpc.ServiceDesc{
		ServiceName: rpcv1alpha1.Pool_ServiceDesc.ServiceName,
		Metadata:    rpcv1alpha1.Pool_ServiceDesc.Metadata,
		Streams: []grpc.StreamDesc{
			raw("Execute", false, execute(Execute)),
			raw("ExecuteStream", true, execute(ExecuteStream)),
			raw("OpenSession", false, s.small("OpenSession", true, s.openSession)),
			raw("CloseSession", false, s.small("CloseSession", true, s.closeSession)),
			raw("GetSession", false, s.small("GetSession", true, s.getSession)),
			raw("ListTools", false, s.small("ListTools", false, s.listTools)),
		},
	}
}

func (s *Server) unknownMethod(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	failure := &Failure{
		Reason:  ReasonMethodUnknown,
		Message: fmt.Sprintf("no method %s here; this router serves %s", clip(method, 80), rpcv1alpha1.Pool_ServiceDesc.ServiceName),
	}
	stream.SetTrailer(failure.trailer(""))
	s.observer.Called("", failure.StatusCode().String(), string(failure.Reason), 0)
	return failure.status()
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
	return s.grpc.Serve(limitConnections(listener, maxConnections))
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
