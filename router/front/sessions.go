package front

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	rpcv1alpha1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
)

// answerer serves one of the small methods: it returns the response, and what its headers say.
type answerer func(stream grpc.ServerStream, call *Call) (proto.Message, Answer, error)

// small serves a method without a payload of its own, with the same checks and reports as any call.
func (s *Server) small(name string, needsSession bool, answer answerer) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		return s.serve(stream, func(c *caller) error {
			c.target = name
			return c.small(needsSession, answer)
		})
	}
}

func (c *caller) small(needsSession bool, answer answerer) error {
	if needsSession && c.call.Session == "" {
		return invalid(keySession, "must be sent with this method")
	}
	request, err := c.read()
	if err != nil {
		return err
	}
	request.Free()
	response, where, err := answer(c.stream, &c.call)
	if err != nil {
		return err
	}
	if err := c.stream.SetHeader(where.metadata(c.call.RequestID)); err != nil {
		return err
	}
	return c.stream.SendMsg(response)
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
	declared := s.pool.Declared()
	if declared == nil {
		return nil, Answer{}, &Failure{Reason: ReasonNoReadyWorker, Wait: time.Second, Message: "no worker has declared its tools yet"}
	}
	response := &rpcv1alpha1.ListToolsResponse{}
	for _, t := range declared.Tools {
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
