package bridge

import (
	"context"
	"errors"
	"net"
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"google.golang.org/protobuf/proto"
)

// Errors of sending.
var (
	// ErrDown says that the worker is not connected: nothing was written.
	ErrDown = errors.New("worker is not connected")
	// ErrOver says that no more of the request is wanted: the call has ended, or begins anew.
	ErrOver = errors.New("the call takes no more of its request")
)

// MaxQueued is the most of a request that goes with its Call frame, in bytes: what a worker's socket takes without waiting.
const MaxQueued = 32 << 10

// Request is what a call begins with.
type Request struct {
	// Open begins the life Epoch, of the session Name, at the worker first.
	Open       bool
	Name       string
	Epoch      uint64
	Timeout    time.Duration // 0: none
	Info       []byte        // CallInfo, encoded
	Payload    [][]byte      // the one message of the request
	Size       int           // of Payload, in bytes
	MaxMessage int           // of each answer
	Tool       uint16        // a tool's number, or the number of tools and a method's
	// Stream: the messages come by Send, and Payload is not looked at.
	Stream bool
}

// Queue hands the call to the worker: its frames go out with the next Flush, after everything queued before. It copies what it needs and never
// waits. A request of more than MaxQueued bytes needs SendRest after it. On ErrDown nothing was queued and the observer is told nothing.
func (w *Worker) Queue(c *Call, r *Request) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.up {
		return ErrDown
	}
	w.nextID++
	first := min(r.Size, MaxQueued)
	c.mu.Lock()
	c.worker, c.data, c.id, c.limit, c.from = w, w.data, w.nextID, r.MaxMessage, w.queued
	if r.Stream {
		first = 0
	}
	c.credit -= first
	if w.data.marks != nil && first == r.Size && !r.Stream {
		c.state = callMarked
	}
	if c.room == nil && (r.Stream || first < r.Size) {
		c.room = make(chan struct{}, 1)
	}
	c.mu.Unlock()
	w.calls[c.id] = c

	before := len(w.out)
	w.out = append(w.out, w.closes...)
	w.closes = w.closes[:0]
	if r.Open {
		w.out = appendOpen(w.out, r.Name, r.Epoch)
	}
	f := Frame{Kind: KindCall, ID: c.id, Tool: r.Tool, Epoch: r.Epoch, Ext: r.Info, Timeout: uint64(max(r.Timeout.Microseconds(), 0))}
	if !r.Stream {
		f.Flags = FlagMessage
		if first == r.Size {
			f.Flags |= FlagEndMessage | FlagEndStream
		}
	}
	w.out = appendPart(f.AppendHeader(w.out, first), r.Payload, 0, first)
	w.queued += uint64(len(w.out) - before)
	return nil
}

// appendPart appends n bytes of the pieces, from an offset on.
func appendPart(b []byte, pieces [][]byte, from, n int) []byte {
	for _, p := range pieces {
		if from >= len(p) {
			from -= len(p)
			continue
		}
		p = p[from:min(len(p), from+n)]
		from = 0
		b = append(b, p...)
		if n -= len(p); n == 0 {
			break
		}
	}
	return b
}

// part is what appendPart appends, as buffers to be written.
func part(pieces [][]byte, from, n int) net.Buffers {
	var b net.Buffers
	for _, p := range pieces {
		if from >= len(p) {
			from -= len(p)
			continue
		}
		p = p[from:min(len(p), from+n)]
		from = 0
		b = append(b, p)
		if n -= len(p); n == 0 {
			break
		}
	}
	return b
}

func appendOpen(b []byte, name string, epoch uint64) []byte {
	ext, err := proto.Marshal(&bridgev1.SessionInfo{Name: name})
	if err != nil {
		ext = nil // a name is plain ASCII: this cannot happen
	}
	f := Frame{Kind: KindSessionOpen, Epoch: epoch, Ext: ext}
	return f.Append(b)
}

// SendRest writes what Queue left of the request, as credit comes. It ends early when the worker wants no more.
func (c *Call) SendRest(ctx context.Context, pieces [][]byte, size int) error {
	c.mu.Lock()
	to := target{c.worker, c.data, c.id}
	c.mu.Unlock()
	return c.sendPieces(ctx, to, pieces, MaxQueued, size, FlagEndStream)
}

// Send writes one more message of the request, once the worker has accepted the call. One goroutine sends at a time. ErrOver: no more is wanted.
func (c *Call) Send(ctx context.Context, pieces [][]byte, size int) error {
	to, err := c.begun(ctx)
	if err != nil {
		return err
	}
	if size == 0 {
		return to.write(&Frame{Kind: KindMessage, Flags: FlagMessage | FlagEndMessage}, nil)
	}
	return c.sendPieces(ctx, to, pieces, 0, size, 0)
}

// CloseSend ends the request.
func (c *Call) CloseSend(ctx context.Context) error {
	to, err := c.begun(ctx)
	if err != nil {
		return err
	}
	return to.write(&Frame{Kind: KindMessage, Flags: FlagEndStream}, nil)
}

func (c *Call) sendPieces(ctx context.Context, to target, pieces [][]byte, from, size int, last uint8) error {
	for from < size {
		n, err := c.take(ctx, to.id, min(size-from, MaxPayload))
		if err != nil {
			return err
		}
		f := Frame{Kind: KindMessage, Flags: FlagMessage}
		if from+n == size {
			f.Flags |= FlagEndMessage | last
		}
		if err := to.write(&f, part(pieces, from, n)); err != nil {
			return err
		}
		from += n
	}
	return nil
}

// begun waits until a worker has accepted the call; one that gives it back is followed by the next.
func (c *Call) begun(ctx context.Context) (target, error) {
	for {
		c.mu.Lock()
		to, state, room := target{c.worker, c.data, c.id}, c.state, c.room
		over := c.cancelled || c.end.Kind != 0
		c.mu.Unlock()
		switch {
		case over:
			return target{}, ErrOver
		case state == callAccepted || state == callAnswering:
			return to, nil
		}
		select {
		case <-room:
		case <-ctx.Done():
			return target{}, ctx.Err()
		}
	}
}

// take waits for credit for at most n bytes and reports how many may be sent.
func (c *Call) take(ctx context.Context, id uint32, n int) (int, error) {
	for {
		c.mu.Lock()
		if c.cancelled || c.end.Kind != 0 || c.state == callEnded || c.id != id {
			c.mu.Unlock()
			return 0, ErrOver
		}
		if c.credit > 0 {
			n = min(n, c.credit)
			c.credit -= n
			c.mu.Unlock()
			return n, nil
		}
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// Expect makes room for a request that comes by Send, before the call has a worker.
func (c *Call) Expect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.room == nil {
		c.room = make(chan struct{}, 1)
	}
}

// target is one try of a call: a request never goes on at another.
type target struct {
	worker *Worker
	data   *conn
	id     uint32
}

// write writes a frame of a request, after what is queued. It waits while the worker does not read.
func (t target) write(f *Frame, payload net.Buffers) error {
	n := 0
	for _, p := range payload {
		n += len(p)
	}
	f.ID = t.id
	head := f.AppendHeader(make([]byte, 0, headerBytes), n)
	t.data.write.Lock()
	b := append(net.Buffers{t.worker.takeOut(t.data), head}, payload...)
	_, err := b.WriteTo(t.data.Conn)
	t.data.write.Unlock()
	t.worker.Flush()
	if err != nil {
		return ErrOver // its reader tells what became of the call
	}
	return nil
}

// Flush writes what is queued, as far as the socket takes it; the rest follows as the worker reads. It never waits.
func (w *Worker) Flush() {
	for {
		w.mu.Lock()
		data := w.data
		something := w.up && (len(w.out) > 0 || len(w.closes) > 0 && w.mayClose())
		w.mu.Unlock()
		if !something || !data.write.TryLock() { // whoever writes looks again afterwards
			return
		}
		b := w.takeOut(data)
		if n := data.offerLocked(b); n < len(b) {
			go func() { // ends when the worker reads, or the connection ends
				_, _ = data.Write(b[n:]) // a broken link is told by its reader
				data.write.Unlock()
				w.Flush()
			}()
			return
		}
		data.write.Unlock()
	}
}

// mayClose: a worker all of whose slots are taken does not read; closes wait for the next end or call. Under w.mu.
func (w *Worker) mayClose() bool { return len(w.calls) < w.slots }

// takeOut takes what is queued, for whoever holds the connection's write lock; the memory is its own until it unlocks.
func (w *Worker) takeOut(data *conn) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.data != data {
		return nil // another connection came meanwhile
	}
	if w.mayClose() {
		w.out = append(w.out, w.closes...)
		w.queued += uint64(len(w.closes))
		w.closes = w.closes[:0]
	}
	b := w.out
	w.wrote += uint64(len(b))
	w.out, w.spare = w.spare[:0], b
	if cap(w.out) > 1<<20 {
		w.out = nil // after a burst
	}
	return b
}
