package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// readAhead is the largest message that is always read before its call is admitted: less than a stream's window, so that a waiting call costs no more
// than one window either way. With it the worker gets the call from whoever frees its slot.
const readAhead = 32 << 10

// caller is one call as its goroutine sees it.
type caller struct {
	server    *Server
	stream    grpc.ServerStream
	ctx       context.Context
	in        reader
	call      Call
	target    string // for the metrics; empty while it is not known
	out       message
	held      int64 // of the budget
	ahead     int64 // of what may be read ahead
	delivered int   // messages that went to the caller
	headers   bool  // were sent, or go with the next message
}

// Clock tells the time.
type Clock func() time.Time

// serve checks a call, runs it and reports how it ended.
func (s *Server) serve(stream grpc.ServerStream, run func(*caller) error) error {
	began := s.now()
	c := &caller{server: s, stream: stream, ctx: stream.Context(), in: newReader(stream)}
	err := c.open(run)
	c.giveBack()
	code, reason := codes.OK, Reason("")
	var failure *Failure
	switch {
	case err == nil:
	case errors.As(err, &failure):
		if c.call.Stream && failure.Execution == MaybeExecuted {
			failure.say("delivered", strconv.Itoa(c.delivered))
		}
		stream.SetTrailer(failure.trailer(c.call.RequestID))
		code, reason = failure.StatusCode(), failure.Reason
		err = failure.status()
	default:
		err = contextStatus(err)
		code = status.Code(err)
	}
	s.observer.Called(c.target, code, reason, s.now().Sub(began))
	return err
}

// open reads what the caller's metadata says, and runs the call.
func (c *caller) open(run func(*caller) error) error {
	if failure := parse(headersOf(c.ctx), &c.call); failure != nil {
		return failure
	}
	if deadline, ok := c.ctx.Deadline(); ok {
		c.call.Deadline = deadline
	}
	if p, ok := peer.FromContext(c.ctx); ok && p.Addr != nil {
		c.call.Peer, c.call.Unread = p.Addr.String(), unreadOf(p.Addr)
	}
	return run(c)
}

// execute serves Execute and ExecuteStream, direct any method of the adapter.
func execute(c *caller) error       { return c.run(Execute) }
func executeStream(c *caller) error { return c.run(ExecuteStream) }
func direct(c *caller) error        { return c.run(Direct) }

// run passes a call on. A request that is small is read first, any other once the call has a slot.
func (c *caller) run(way Way) error {
	c.call.Way, c.call.Stream = way, way == ExecuteStream
	if way == Direct {
		c.call.Target, _ = grpc.MethodFromServerStream(c.stream)
	}
	resolved := false
	if declared := c.server.pool.Declared(); declared != nil && way == Direct {
		resolved = true
		if err := c.resolve(declared); err != nil {
			return err
		}
	}
	size, compressed := 0, false
	if !c.call.ClientStream && (resolved || way != Direct) {
		var err error
		if size, compressed, err = c.announced(); err != nil {
			return err
		}
		if err := c.early(size, compressed); err != nil {
			return err
		}
	}
	exchange, err := c.server.pool.Admit(&c.call)
	if err != nil {
		c.call.Request.Free()
		return err
	}
	defer func() {
		exchange.Release()
		c.call.Request.Free()
	}()
	if !c.call.Ready {
		if err := c.late(exchange, size, compressed, resolved); err != nil {
			return err
		}
	}
	if c.call.ClientStream {
		return c.both(exchange)
	}
	return c.deliver(c.ctx, exchange)
}

// announced waits for the begin of the one message of the request. Room for it is taken by claim.
func (c *caller) announced() (size int, compressed bool, err error) {
	size, compressed, err = c.in.next()
	if errors.Is(err, io.EOF) {
		return 0, false, c.noRequest()
	}
	if err != nil {
		return 0, false, err
	}
	if limit := c.server.pool.MaxMessageBytes(); int64(size) > limit {
		return 0, false, tooLarge(limit, int64(size))
	}
	return size, compressed, nil
}

// claim takes room for the request, until the call ends or the request is used up.
func (c *caller) claim(size int) error {
	if err := c.server.budget.take(c.ctx, int64(size), c.server.pool.QueueTimeout()); err != nil {
		return err
	}
	c.held = int64(size)
	return nil
}

// giveBack ends what the request holds.
func (c *caller) giveBack() {
	c.server.budget.give(c.held)
	c.server.ahead.give(c.ahead)
	c.held, c.ahead = 0, 0
}

// noRequest is said as a gRPC server of Python says it, for methods.
func (c *caller) noRequest() error {
	if c.call.Way != Direct {
		return invalid("request", "must be one message")
	}
	return &Failure{Plain: true, Code: codes.Unimplemented, Message: fmt.Sprintf("%q requires exactly one request message.", c.call.Target)}
}

// early takes room for a request and reads it before the call is admitted, which tells what it is for. A small one has its room in the stream's window
// until it came, so that a caller that does not send it takes none from others. A large one is read as long as the requests that were read so are a
// part of the budget: its worker need not wait until it has come. The others are read once they have a worker.
func (c *caller) early(size int, compressed bool) error {
	small := size <= readAhead && !compressed
	if !small {
		if err := c.claim(size); err != nil || compressed || !c.server.ahead.tryTake(int64(size)) {
			return err
		}
		c.ahead = int64(size)
	}
	patience := c.server.patience
	if small {
		patience = 0 // it has the stream's own
	}
	body, err := c.in.bodyWithin(patience, size, false, 0)
	if err != nil {
		return err
	}
	if small {
		if err := c.claim(size); err != nil {
			body.Free()
			return err
		}
	}
	c.call.Request = body
	declared := c.server.pool.Declared()
	if c.call.Way != Direct {
		var failure *Failure
		if c.call.Target, failure = toolOf(body); failure == nil && declared != nil {
			failure = c.findTool(declared)
		}
		if failure != nil {
			body.Free()
			return failure
		}
	}
	c.call.Ready = declared != nil
	return nil
}

// late does what was left: waits for a slot, reads the request, and starts the call.
func (c *caller) late(exchange Exchange, size int, compressed, resolved bool) error {
	if err := exchange.Wait(c.ctx); err != nil {
		return err
	}
	declared := exchange.Declared()
	if c.call.Way == Direct && !resolved {
		if err := c.resolve(declared); err != nil {
			return err
		}
		if !c.call.ClientStream {
			var err error
			if size, compressed, err = c.announced(); err != nil {
				return err
			}
			if err := c.claim(size); err != nil {
				return err
			}
		}
	}
	if !c.call.ClientStream && c.call.Request == nil {
		body, err := c.in.bodyWithin(c.server.patience, size, compressed, c.server.pool.MaxMessageBytes())
		if err != nil {
			return err
		}
		c.call.Request = body
	}
	if c.call.Way != Direct {
		var failure *Failure
		if c.call.Target, failure = toolOf(c.call.Request); failure == nil {
			failure = c.findTool(declared)
		}
		if failure != nil {
			return failure
		}
	}
	return exchange.Start(c.ctx)
}

// resolve finds a method of the adapter, and learns of which kind it is.
func (c *caller) resolve(declared *Declared) error {
	m := declared.Method(c.call.Target)
	if m == nil {
		return c.server.unknownMethod(c.call.Target, declared)
	}
	c.target = m.Path
	c.call.ClientStream, c.call.Stream = m.ClientStream, m.ClientStream || m.ServerStream
	if m.ClientStream {
		c.call.Ready = true
	}
	return nil
}

func (c *caller) findTool(declared *Declared) *Failure {
	tool := declared.Tool(c.call.Target)
	if tool == nil {
		return unknownTool(c.call.Target, declared)
	}
	c.target = tool.Name
	if tool.Streaming && c.call.Way == Execute {
		return invalid("tool", "%s is a stream; call it by ExecuteStream", tool.Name)
	}
	return nil
}

// both passes messages on in both directions until the answer has ended.
func (c *caller) both(exchange Exchange) error {
	ctx, stop := context.WithCancelCause(c.ctx)
	defer stop(nil)
	go func() { // ends with the stream at the latest
		if err := c.forward(ctx, exchange); err != nil {
			stop(err)
		}
	}()
	err := c.deliver(ctx, exchange)
	if cause := context.Cause(ctx); errors.Is(err, context.Canceled) && c.ctx.Err() == nil && cause != nil {
		return begun(cause) // the request could not be read
	}
	return err
}

// forward reads the caller's messages and sends them to the worker.
func (c *caller) forward(ctx context.Context, exchange Exchange) error {
	for {
		size, compressed, err := c.in.next()
		if errors.Is(err, io.EOF) {
			return ended(exchange.CloseSend(ctx))
		}
		if err != nil {
			return err
		}
		if err := c.forwardOne(ctx, exchange, size, compressed); err != nil {
			return ended(err)
		}
	}
}

// ended: what the worker does not want any more is not an error.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (c *caller) forwardOne(ctx context.Context, exchange Exchange, size int, compressed bool) error {
	limit := c.server.pool.MaxMessageBytes()
	if int64(size) > limit {
		return tooLarge(limit, int64(size))
	}
	small := size <= readAhead && !compressed
	var body mem.BufferSlice
	defer func() { body.Free() }()
	var err error
	if small { // it has its room in the stream's window until it came
		if body, err = c.in.body(size, false, 0); err != nil {
			return err
		}
	}
	if err := c.server.budget.take(ctx, int64(size), c.server.pool.QueueTimeout()); err != nil {
		return err
	}
	defer c.server.budget.give(int64(size))
	if !small {
		if body, err = c.in.bodyWithin(c.server.patience, size, compressed, limit); err != nil {
			return err
		}
	}
	return exchange.Send(ctx, body)
}

// deliver passes the answer on as it comes. Headers go with its first message unless they came alone; a failure before both is a trailers-only answer.
func (c *caller) deliver(ctx context.Context, exchange Exchange) error {
	for {
		reply, err := exchange.Recv(ctx)
		if reply.Consumed {
			c.call.Request.Free()
			c.call.Request = nil
			c.giveBack()
		}
		if reply.HasMessage || reply.Headers != nil || errors.Is(err, io.EOF) {
			if headerErr := c.greet(exchange, reply.Headers, reply.Flush || reply.HasMessage); headerErr != nil {
				reply.Message.Free()
				return headerErr
			}
		}
		if reply.HasMessage {
			c.out.data = reply.Message // grpc frees it
			if sendErr := c.stream.SendMsg(&c.out); sendErr != nil {
				return sendErr
			}
			c.delivered++
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			c.stream.SetTrailer(reply.Trailers)
			return nil
		}
		return err
	}
}

// greet sets the headers of the answer, once; now where something follows them at once, which spares grpc a copy.
func (c *caller) greet(exchange Exchange, own metadata.MD, now bool) error {
	if c.headers {
		return nil
	}
	c.headers = true
	md := exchange.Answer().metadata(c.call.RequestID)
	for key, values := range own {
		md[key] = append(md[key], values...)
	}
	if now {
		return c.stream.SendHeader(md)
	}
	return c.stream.SetHeader(md)
}

// read receives the one request message of a small method.
func (c *caller) read() (mem.BufferSlice, error) {
	size, compressed, err := c.announced()
	if err == nil {
		err = c.claim(size)
	}
	if err != nil {
		return nil, err
	}
	return c.in.bodyWithin(c.server.patience, size, compressed, c.server.pool.MaxMessageBytes())
}
