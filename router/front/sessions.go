package front

import (
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	rpcv1alpha1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
)

// answerer serves one of the small methods: it returns the response, and what its headers say.
type answerer func(stream grpc.ServerStream, call *Call) (proto.Message, Answer, error)

// small wraps a method without a payload of its own in the same checks and reports as execute.
func (s *Server) small(method string, needsSession bool, answer answerer) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		began := s.now()
		err := s.serveSmall(stream, needsSession, answer)
		reason, code := "", codes.OK
		var failure *Failure
		if errors.As(err, &failure) {
			stream.SetTrailer(failure.trailer(""))
			reason, code = string(failure.Reason), failure.StatusCode()
			err = failure.status()
		} else if err != nil {
			err = contextStatus(err)
			code = status.Code(err)
		}
		s.observer.Called(method, code.String(), reason, s.now().Sub(began))
		return err
	}
}

func (s *Server) serveSmall(stream grpc.ServerStream, needsSession bool, answer answerer) error {
	call, failure := fromContext(stream.Context())
	if failure != nil {
		return failure
	}
	if needsSession && call.Session == "" {
		return invalid(keySession, "must be sent with this method")
	}
	if _, err := s.read(stream); err != nil {
		return err
	}
	response, where, err := answer(stream, call)
	if err != nil {
		return err
	}
	if err := stream.SetHeader(where.metadata(call.RequestID)); err != nil {
		return err
	}
	return stream.SendMsg(response)
}

func (s *Server) openSession(stream grpc.ServerStream, call *Call) (proto.Message, Answer, error) {
	call.Create = true
	session, err := s.pool.OpenSession(stream.Context(), call)
	if err != nil {
		return nil, Answer{}, err
	}
	return &rpcv1alpha1.OpenSessionResponse{Session: session.proto()}, session.Answer, nil
}

func (s *Server) closeSession(stream grpc.ServerStream, call *Call) (proto.Message, Answer, error) {
	closed, err := s.pool.CloseSession(stream.Context(), call)
	return &rpcv1alpha1.CloseSessionResponse{Closed: closed}, Answer{}, err
}

func (s *Server) getSession(_ grpc.ServerStream, call *Call) (proto.Message, Answer, error) {
	session, err := s.pool.GetSession(call)
	if err != nil {
		return nil, Answer{}, err
	}
	return &rpcv1alpha1.GetSessionResponse{Session: session.proto()}, session.Answer, nil
}

func (s *Server) listTools(grpc.ServerStream, *Call) (proto.Message, Answer, error) {
	tools, known := s.pool.Tools()
	if !known {
		return nil, Answer{}, &Failure{Reason: ReasonNoReadyWorker, Wait: time.Second, Message: "no worker has declared its tools yet"}
	}
	response := &rpcv1alpha1.ListToolsResponse{}
	for _, t := range tools {
		response.Tools = append(response.Tools, &rpcv1alpha1.Tool{
			Name: t.Name, Description: t.Description, ParametersSchema: t.ParametersSchema, Streaming: t.Streaming, Idempotent: t.Idempotent,
		})
	}
	return response, Answer{}, nil
}

func (s Session) proto() *rpcv1alpha1.Session {
	return &rpcv1alpha1.Session{
		Name: s.Name, Token: s.Answer.SessionToken, Worker: s.Answer.Worker, Epoch: s.Epoch,
		State: s.Answer.SessionState, Pending: uint32(s.Pending),
	}
}
