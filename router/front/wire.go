package front

import (
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // registers gzip
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// message is one message as bytes; the codec passes it through.
type message struct{ data mem.BufferSlice }

// codec passes messages through as bytes and speaks protobuf for the services that grpc brings (health, reflection).
type codec struct{}

// Name is the content subtype that clients expect.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2. grpc frees what it returns.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *message:
		return m.data, nil
	case proto.Message:
		data, err := proto.Marshal(m)
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(data)}, nil
	}
	return nil, fmt.Errorf("cannot encode %T", v)
}

// Unmarshal implements encoding.CodecV2. grpc frees the data afterwards; a message keeps its own reference.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *message:
		data.Ref()
		m.data = data
		return nil
	case proto.Message:
		return proto.Unmarshal(data.Materialize(), m)
	}
	return fmt.Errorf("cannot decode %T", v)
}

// deflate is what gRPC calls so: the zlib format of RFC 1950.
type deflate struct{}

func init() { encoding.RegisterCompressor(deflate{}) }

func (deflate) Name() string                                 { return "deflate" }
func (deflate) Compress(w io.Writer) (io.WriteCloser, error) { return zlib.NewWriter(w), nil }
func (deflate) Decompress(r io.Reader) (io.Reader, error)    { return zlib.NewReader(r) }

// frameHeader is the compressed flag and the length before each message.
const frameHeader = 5

// inbound is the reading half of a stream as grpc's transport has it. It tells the length of a message before the message is read, which
// grpc.ServerStream does not: so that a message is refused, or waits for room, before it costs memory.
type inbound interface {
	ReadMessageHeader(header []byte) error
	Read(n int) (mem.BufferSlice, error)
	RecvCompress() string
}

// reader reads the messages of one stream. One goroutine uses it.
type reader struct {
	in     inbound
	stream grpc.ServerStream
	head   [frameHeader]byte
	whole  mem.BufferSlice // read by next already, where in is nil
}

func newReader(stream grpc.ServerStream) reader {
	in, _ := grpc.ServerTransportStreamFromContext(stream.Context()).(inbound) // nil: lengths are known after the fact
	return reader{in: in, stream: stream}
}

// next waits for the begin of a message and tells its size on the wire; io.EOF after the last one.
func (r *reader) next() (size int, compressed bool, err error) {
	if r.in == nil {
		var m message
		if err := r.stream.RecvMsg(&m); err != nil {
			return 0, false, readError(r.stream.Context(), err)
		}
		r.whole = m.data
		return m.data.Len(), false, nil
	}
	if err := r.in.ReadMessageHeader(r.head[:]); err != nil {
		return 0, false, readError(r.stream.Context(), err)
	}
	if r.head[0] > 1 {
		return 0, false, status.Errorf(codes.Internal, "grpc: received unexpected payload format %d", r.head[0])
	}
	return int(binary.BigEndian.Uint32(r.head[1:])), r.head[0] == 1, nil
}

// body reads the message that next announced. A compressed one may grow to limit bytes.
func (r *reader) body(size int, compressed bool, limit int64) (mem.BufferSlice, error) {
	if r.in == nil {
		whole := r.whole
		r.whole = nil
		return whole, nil
	}
	if size == 0 {
		return mem.BufferSlice{}, nil
	}
	data, err := r.in.Read(size)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, readError(r.stream.Context(), err)
	}
	if !compressed {
		return data, nil
	}
	defer data.Free()
	return inflate(data, r.in.RecvCompress(), limit)
}

// bodyWithin is body for a message that a worker or room is held for: a caller that does not send it in time loses both. With 0 nothing bounds it.
func (r *reader) bodyWithin(d time.Duration, size int, compressed bool, limit int64) (mem.BufferSlice, error) {
	if d == 0 {
		return r.body(size, compressed, limit)
	}
	type read struct {
		data mem.BufferSlice
		err  error
	}
	done := make(chan read, 1) // what comes too late is left to the collector
	go func() {                // ends with the stream at the latest, and the caller of bodyWithin ends that
		data, err := r.body(size, compressed, limit)
		done <- read{data, err}
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case got := <-done:
		return got.data, got.err
	case <-timer.C:
		return nil, LateRequest()
	}
}

func inflate(data mem.BufferSlice, name string, limit int64) (mem.BufferSlice, error) {
	if name == "" || name == encoding.Identity {
		return nil, status.Error(codes.Internal, "grpc: compressed flag set with identity or empty encoding")
	}
	c := encoding.GetCompressor(name)
	if c == nil {
		return nil, status.Errorf(codes.Unimplemented, "grpc: Decompressor is not installed for grpc-encoding %q", name)
	}
	plain, err := c.Decompress(data.Reader())
	if err != nil {
		return nil, status.Errorf(codes.Internal, "grpc: failed to decompress the message: %v", err)
	}
	out, err := mem.ReadAll(io.LimitReader(plain, limit+1), mem.DefaultBufferPool())
	if closer, ok := plain.(io.Closer); ok {
		_ = closer.Close() // what it had to say was said by Read
	}
	if err != nil {
		out.Free()
		return nil, status.Errorf(codes.Internal, "grpc: failed to decompress the message: %v", err)
	}
	if int64(out.Len()) > limit {
		out.Free()
		return nil, tooLarge(limit, limit+1)
	}
	return out, nil
}

// readError is what a failed read means: the caller's end, or the caller's fault.
func readError(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return io.EOF
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return invalid("request", "ended within a message")
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return invalid("request", "could not be read: %v", err)
}

// toolField is ExecuteRequest.tool.
const toolField = 1

const maxToolBytes = 128

// toolOf finds the tool's name in an ExecuteRequest without decoding the rest.
func toolOf(request mem.BufferSlice) (string, *Failure) {
	if len(request) == 1 {
		return toolIn(request[0].ReadOnlyData())
	}
	if len(request) > 1 { // every known encoder writes it first
		first := request[0].ReadOnlyData()
		if number, kind, n := protowire.ConsumeTag(first); n > 0 && number == toolField && kind == protowire.BytesType {
			if value, m := protowire.ConsumeBytes(first[n:]); m > 0 && len(value) > 0 && len(value) <= maxToolBytes && len(first) > 1<<10 {
				return string(value), nil
			}
		}
	}
	return toolIn(request.Materialize())
}

func toolIn(request []byte) (string, *Failure) {
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
