package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
)

// frame is one message as bytes. An answer's bytes are kept only where they are looked at.
type frame struct {
	data []byte
	size int
	keep bool
}

// raw passes messages through as bytes.
type raw struct{}

// Name is the content subtype that servers expect.
func (raw) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("cannot encode %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(f.data)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("cannot decode %T", v)
	}
	f.size = data.Len()
	if f.keep {
		f.data = data.Materialize()
	}
	return nil
}

// Work is one kind of call.
type Work struct {
	// Method is the full path, such as /bench.Echo/Unary.
	Method string
	// Request is sent with each call, Answer is what each of Answers messages must be.
	Request, Answer []byte
	// Answers is the number of messages of a server stream, 0 for a unary call.
	Answers int
	// Sessions makes each lane call in a session of its own, named by the prefix and the lane's number. "": without sessions.
	Sessions string
}

// Target is a server, or several that are one system, under one kind of call.
type Target struct {
	work  Work
	conns []*grpc.ClientConn
	lanes []lane
}

// lane is one caller: its connection and what it says of itself.
type lane struct {
	conn    *grpc.ClientConn
	context func(context.Context) context.Context
}

var streamOf = &grpc.StreamDesc{ServerStreams: true}

// Dial prepares calls of one kind by so many lanes, which share one connection for each address. The target is to be closed.
func Dial(addresses []string, work Work, lanes int) (*Target, error) {
	t := &Target{work: work}
	for _, address := range addresses {
		conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(64<<20)))
		if err != nil {
			t.Close()
			return nil, err
		}
		t.conns = append(t.conns, conn)
	}
	for i := range lanes {
		t.lanes = append(t.lanes, lane{conn: t.conns[i%len(t.conns)]})
	}
	return t, nil
}

// Close ends the connections.
func (t *Target) Close() {
	for _, conn := range t.conns {
		_ = conn.Close() // nothing is under way any more
	}
}

// Open makes the first call of every lane, one after the other: it checks the answers byte for byte, and begins the sessions.
func (t *Target) Open(ctx context.Context) error {
	for i := range t.lanes {
		var headers metadata.MD
		first := ctx
		name := t.work.Sessions + strconv.Itoa(i)
		if t.work.Sessions != "" {
			first = metadata.AppendToOutgoingContext(ctx, "snakepit-session", name, "snakepit-session-create", "true")
		}
		if err := t.once(first, i, true, &headers); err != nil {
			return fmt.Errorf("%s, first call of lane %d: %w", t.work.Method, i, err)
		}
		if t.work.Sessions == "" {
			continue
		}
		tokens := headers.Get("snakepit-session-token")
		if len(tokens) != 1 {
			return fmt.Errorf("%s: the answer to a session's first call carries %d tokens", t.work.Method, len(tokens))
		}
		// From then on as our client does: the name and the token of the life.
		t.lanes[i].context = func(ctx context.Context) context.Context {
			return metadata.AppendToOutgoingContext(ctx, "snakepit-session", name, "snakepit-session-token", tokens[0])
		}
	}
	return nil
}

// call makes one call in a lane.
func (t *Target) call(ctx context.Context, i int) error { return t.once(ctx, i, false, nil) }

func (t *Target) once(ctx context.Context, i int, check bool, headers *metadata.MD) error {
	l := &t.lanes[i]
	if l.context != nil {
		ctx = l.context(ctx)
	}
	if t.work.Answers > 0 {
		return t.stream(ctx, l.conn, check)
	}
	var options []grpc.CallOption
	if headers != nil {
		options = append(options, grpc.Header(headers))
	}
	answer := frame{keep: check}
	if err := l.conn.Invoke(ctx, t.work.Method, &frame{data: t.work.Request}, &answer, options...); err != nil {
		return err
	}
	return t.sound(&answer)
}

func (t *Target) stream(ctx context.Context, conn *grpc.ClientConn, check bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // of a stream that is not read to its end
	stream, err := conn.NewStream(ctx, streamOf, t.work.Method)
	if err != nil {
		return err
	}
	// After io.EOF the reason comes from RecvMsg.
	if err := stream.SendMsg(&frame{data: t.work.Request}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for n := 0; ; n++ {
		answer := frame{keep: check}
		err := stream.RecvMsg(&answer)
		switch {
		case errors.Is(err, io.EOF) && n == t.work.Answers:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%d messages came, not %d", n, t.work.Answers)
		case err != nil:
			return err
		}
		if err := t.sound(&answer); err != nil {
			return err
		}
	}
}

// sound checks every answer's size, and its bytes when they were kept.
func (t *Target) sound(answer *frame) error {
	if answer.size != len(t.work.Answer) || answer.keep && !bytes.Equal(answer.data, t.work.Answer) {
		return fmt.Errorf("the answer has %d bytes that are not what was to come (%d bytes)", answer.size, len(t.work.Answer))
	}
	return nil
}
