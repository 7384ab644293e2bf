package upstream

import (
	"context"
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/front"
)

// pool has the sizes of frames: grpc's own goes from 32 KiB to 1 MiB, four times what the largest frame needs.
var pool = mem.NewTieredBufferPool(2<<10, 4<<10, 16<<10, 64<<10, bridge.MaxPayload)

// Buffers lends the memory of answers: grpc gives it back once an answer is on its way.
type Buffers struct{}

// Get returns memory of that length.
func (Buffers) Get(n int) *[]byte {
	if mem.IsBelowBufferPoolingThreshold(n) { // grpc would not give it back
		b := make([]byte, n)
		return &b
	}
	return pool.Get(n)
}

// Put takes memory back.
func (Buffers) Put(b *[]byte) {
	if !mem.IsBelowBufferPoolingThreshold(cap(*b)) {
		pool.Put(b)
	}
}

// Wait implements front.Exchange.
func (c *call) Wait(ctx context.Context) error { return c.await(ctx) }

// Declared is what the call's worker offers; known after Wait.
func (c *call) Declared() *front.Declared {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	return c.link.declared
}

// Start implements front.Exchange.
func (c *call) Start(ctx context.Context) error {
	c.prepare()
	if err := c.quarantined(); err != nil {
		return err
	}
	c.pool.mu.Lock()
	c.ready = true
	c.describe()
	if c.at.Load() == assigned {
		c.begin(c.pool.now())
	}
	c.pool.unlock()
	return c.sendRest(ctx)
}

// sendRest writes what the first frame of the request did not hold. What the worker does not want any more is not an error.
func (c *call) sendRest(ctx context.Context) error {
	for c.rest.Swap(false) {
		if err := c.wire.SendRest(ctx, c.pieces, c.size); err != nil && !errors.Is(err, bridge.ErrOver) {
			return err
		}
	}
	return nil
}

// Send implements front.Exchange.
func (c *call) Send(ctx context.Context, message mem.BufferSlice) error {
	pieces, size := make([][]byte, 0, len(message)), 0
	for _, b := range message {
		if data := b.ReadOnlyData(); len(data) > 0 {
			pieces = append(pieces, data)
			size += len(data)
		}
	}
	return c.sent(c.wire.Send(ctx, pieces, size))
}

// CloseSend implements front.Exchange.
func (c *call) CloseSend(ctx context.Context) error { return c.sent(c.wire.CloseSend(ctx)) }

func (c *call) sent(err error) error {
	c.active.Store(c.pool.clock.Load())
	if errors.Is(err, bridge.ErrOver) {
		return io.EOF
	}
	return err
}

// Recv implements front.Exchange.
func (c *call) Recv(ctx context.Context) (front.Reply, error) {
	for {
		if err := c.sendRest(ctx); err != nil {
			return front.Reply{}, c.gone(err)
		}
		if c.consume() {
			return front.Reply{Consumed: true}, nil
		}
		if part, ok := c.wire.Poll(); ok {
			if c.ask.Stream {
				c.active.Store(c.pool.clock.Load())
			}
			return c.reply(&part)
		}
		if c.at.Load() == refused {
			return front.Reply{}, c.whyRefused()
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return front.Reply{}, c.gone(ctx.Err())
		}
	}
}

// consume lets a large request go once it is with a worker that has begun it, and nobody would repeat it.
func (c *call) consume() bool {
	if c.size <= bridge.MaxQueued || c.sum != "" || c.ask.ClientStream || c.ask.Idempotent || !c.wire.Accepted() {
		return false
	}
	sum := c.payloadSum()
	c.pool.mu.Lock()
	c.sum, c.pieces = sum, nil
	c.pool.mu.Unlock()
	return true
}

// gone notes why the caller leaves.
func (c *call) gone(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		c.cause = bridge.CancelByDeadline
	}
	return err
}

// reply turns a part of the answer into what the front passes on.
func (c *call) reply(p *bridge.Part) (r front.Reply, err error) {
	if p.HasHeaders {
		r.Headers, r.Flush = toMetadata(p.Headers), !p.HasMessage && p.End == nil
	}
	if p.HasMessage {
		r.Message, r.HasMessage = c.toBuffers(&p.Message), true
	}
	if p.End == nil {
		return r, nil
	}
	if info := p.End.Info; info != nil {
		if len(info.GetHeaders()) > 0 && !p.HasHeaders {
			r.Headers = toMetadata(info.GetHeaders())
		}
		r.Trailers = toMetadata(info.GetTrailers())
	}
	if f := c.failed(p.End); f != nil {
		return r, f
	}
	return r, io.EOF
}

// countedBytes is the size above which an answer counts for its connection until it is written.
const countedBytes = 64 << 10

func (c *call) toBuffers(m *bridge.Message) mem.BufferSlice {
	if m.First == nil {
		return mem.BufferSlice{}
	}
	memory := pool
	if unread := c.ask.Unread; unread != nil && m.Size > countedBytes {
		unread.Hold(pooled(m), pool)
		memory = unread
	}
	b := make(mem.BufferSlice, 0, 1+len(m.More))
	b = append(b, mem.NewBuffer(m.First, memory))
	for _, more := range m.More {
		b = append(b, mem.NewBuffer(more, memory))
	}
	return b
}

// pooled is the capacity of the pieces that grpc will give back.
func pooled(m *bridge.Message) int {
	n := pooledPiece(m.First)
	for _, more := range m.More {
		n += pooledPiece(more)
	}
	return n
}

func pooledPiece(b *[]byte) int {
	if mem.IsBelowBufferPoolingThreshold(cap(*b)) {
		return 0
	}
	return cap(*b)
}

// toMetadata takes an adapter's metadata. Keys of the transport are not an adapter's to set.
func toMetadata(entries []*bridgev1.Metadatum) metadata.MD {
	md := make(metadata.MD, len(entries))
	for _, m := range entries {
		if key := strings.ToLower(m.GetKey()); key != "" && key[0] != ':' {
			md[key] = append(md[key], string(m.GetValue()))
		}
	}
	return md
}

// appendInfo encodes CallInfo; by hand, because every call has one.
func (c *call) appendInfo(b []byte) []byte {
	a := c.ask
	b = appendText(b, 1, a.RequestID)
	b = appendText(b, 2, a.Session)
	if a.Way == front.ExecuteStream {
		b = appendMetadatum(b, ":method", "ExecuteStream")
	}
	for _, m := range a.Metadata {
		b = appendMetadatum(b, m.Key, m.Value)
	}
	b = appendText(b, 4, a.Traceparent)
	if a.CallerID {
		b = protowire.AppendTag(b, 5, protowire.VarintType)
		b = protowire.AppendVarint(b, 1)
	}
	return appendText(b, 6, a.Peer)
}

func appendText(b []byte, number protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = protowire.AppendTag(b, number, protowire.BytesType)
	return protowire.AppendString(b, s)
}

func appendMetadatum(b []byte, key, value string) []byte {
	b = protowire.AppendTag(b, 3, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(2+protowire.SizeBytes(len(key))+protowire.SizeBytes(len(value))))
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, key)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	return protowire.AppendString(b, value)
}
