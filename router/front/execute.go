package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// toolField is ExecuteRequest.tool.
const toolField = 1

const maxToolBytes = 128

// execute serves Execute and ExecuteStream: check, admit, read, pass on.
func (s *Server) execute(stream grpc.ServerStream, method Method) error {
	began := s.now()
	tool := ""
	requestID, err := s.run(stream, method, &tool)
	code, reason := codes.OK, Reason("")
	var failure *Failure
	switch {
	case err == nil:
	case errors.As(err, &failure):
		stream.SetTrailer(failure.trailer(requestID))
		code, reason = failure.StatusCode(), failure.Reason
		err = failure.status()
	default:
		err = contextStatus(err)
		code = status.Code(err)
	}
	s.observer.Called(tool, code.String(), string(reason), s.now().Sub(began))
	return err
}

func (s *Server) run(stream grpc.ServerStream, method Method, toolName *string) (requestID string, err error) {
	ctx := stream.Context()
	call, failure := fromContext(ctx)
	if failure != nil {
		return "", failure
	}
	call.Stream = method == ExecuteStream
	reservation, err := s.pool.Admit(ctx, call)
	if err != nil {
		return call.RequestID, err
	}
	defer reservation.Release()
	request, err := s.read(stream)
	if err != nil {
		return call.RequestID, err
	}
	name, failure := toolOf(request)
	if failure != nil {
		return call.RequestID, failure
	}
	index, tool, ok := reservation.Tool(name)
	if !ok {
		return call.RequestID, s.unknownTool(name)
	}
	*toolName = tool.Name
	if tool.Streaming && method == Execute {
		return call.RequestID, invalid("tool", "%s is a stream; call it by ExecuteStream", tool.Name)
	}
	if err := reservation.Start(ctx, index, method, request); err != nil {
		return call.RequestID, err
	}
	return call.RequestID, deliver(stream, reservation, call.RequestID)
}

// deliver passes the answer on as it comes. The headers go with its first message; a failure without a message is a trailers-only answer.
func deliver(stream grpc.ServerStream, reservation Reservation, requestID string) error {
	ctx := stream.Context()
	headers := false
	for {
		data, err := reservation.Recv(ctx)
		if data != nil {
			if !headers {
				headers = true
				if headerErr := stream.SetHeader(reservation.Answer().metadata(requestID)); headerErr != nil {
					return headerErr
				}
			}
			if sendErr := stream.SendMsg(&message{data}); sendErr != nil {
				return sendErr
			}
		}
		if errors.Is(err, io.EOF) {
			if !headers {
				return stream.SendHeader(reservation.Answer().metadata(requestID))
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fromContext reads a call's metadata and deadline.
func fromContext(ctx context.Context) (*Call, *Failure) {
	md, _ := metadata.FromIncomingContext(ctx)
	call, failure := parse(md)
	if failure != nil {
		return nil, failure
	}
	if deadline, ok := ctx.Deadline(); ok {
		call.Deadline = deadline
	}
	return call, nil
}

// read receives the one request message.
func (s *Server) read(stream grpc.ServerStream) ([]byte, error) {
	var in message
	limit := s.pool.MaxMessageBytes()
	err := stream.RecvMsg(&in)
	switch {
	case err == nil:
	case stream.Context().Err() != nil:
		return nil, stream.Context().Err()
	case status.Code(err) == codes.ResourceExhausted:
		return nil, tooLarge(limit, MaxMessageBytes+1)
	default:
		return nil, invalid("request", "must be one message: %v", err)
	}
	if int64(len(in.data)) > limit {
		return nil, tooLarge(limit, int64(len(in.data)))
	}
	return in.data, nil
}

func tooLarge(limit, size int64) *Failure {
	return &Failure{
		Reason:  ReasonMessageTooLarge,
		Message: fmt.Sprintf("the request has %d bytes or more; calls.maxMessageBytes allows %d", size, limit),
		Info:    map[string]string{"limit": fmt.Sprint(limit), "size": fmt.Sprint(size)},
	}
}

// toolOf finds the tool's name in an ExecuteRequest without decoding the rest.
func toolOf(request []byte) (string, *Failure) {
	name, seen := "", false
	for rest := request; len(rest) > 0; {
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return "", invalid("request", "is not a snakepit.v1alpha1.ExecuteRequest")
		}
		rest = rest[n:]
		size := protowire.ConsumeFieldValue(number, kind, rest)
		if size < 0 {
			return "", invalid("request", "is not a snakepit.v1alpha1.ExecuteRequest")
		}
		if number == toolField && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(rest)
			if len(value) > maxToolBytes {
				return "", invalid("tool", "must have at most %d bytes", maxToolBytes)
			}
			name, seen = string(value), true
			if len(request) > 1<<16 {
				break // field order: every known encoder writes it first; a long message is not scanned to its end
			}
		}
		rest = rest[size:]
	}
	if !seen || name == "" {
		return "", invalid("tool", "is missing; name one of ListTools")
	}
	return name, nil
}

func (s *Server) unknownTool(name string) *Failure {
	tools, _ := s.pool.Tools()
	names := make([]string, len(tools))
	for i, t := range tools {
		names[i] = t.Name
	}
	near := nearest(name, names)
	text := fmt.Sprintf("the adapter has no tool %q", clip(name, 60))
	if len(near) > 0 {
		text += "; nearest: " + strings.Join(near, ", ")
	} else {
		text += "; ListTools names what it has"
	}
	return &Failure{Reason: ReasonToolUnknown, Message: text, Info: map[string]string{"nearest": strings.Join(near, ",")}}
}

// contextStatus is what a caller sees of its own deadline or cancellation.
func contextStatus(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the caller's deadline passed")
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the caller cancelled")
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, clip(err.Error(), maxMessageBytes))
}

// Clock tells the time.
type Clock func() time.Time
