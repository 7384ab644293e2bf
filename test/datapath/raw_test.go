package datapath

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
)

const executePath = "/snakepit.v1alpha1.Pool/Execute"

// raw is an HTTP/2 connection whose frames the test writes itself. One goroutine writes.
type raw struct {
	net.Conn
	framer  *http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
	stream  uint32 // of the next request
}

// dialRaw connects and says hello; nothing is read yet.
func (s *stage) dialRaw() (*raw, error) {
	conn, err := net.DialTimeout("tcp", s.listen, 5*time.Second)
	if err != nil {
		return nil, err
	}
	r := &raw{Conn: conn, framer: http2.NewFramer(conn, conn), stream: 1}
	r.framer.AllowIllegalWrites = true
	r.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	r.encoder = hpack.NewEncoder(&r.block)
	_ = conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_, err = io.WriteString(conn, http2.ClientPreface)
	if err = errors.Join(err, r.framer.WriteSettings()); err != nil {
		_ = conn.Close()
		return nil, err
	}
	_ = conn.SetWriteDeadline(time.Time{})
	return r, nil
}

// fields of a call's headers; extra are pairs behind them.
func fields(path string, extra ...string) []hpack.HeaderField {
	all := []hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: path},
		{Name: ":authority", Value: "pool"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}}
	for i := 0; i+1 < len(extra); i += 2 {
		all = append(all, hpack.HeaderField{Name: extra[i], Value: extra[i+1]})
	}
	return all
}

// open writes the headers of a request, in as many frames as they need, and returns its stream.
func (r *raw) open(all []hpack.HeaderField) (uint32, error) {
	r.block.Reset()
	for _, f := range all {
		if err := r.encoder.WriteField(f); err != nil {
			return 0, err
		}
	}
	id, rest := r.stream, r.block.Bytes()
	r.stream += 2
	piece := rest[:min(len(rest), 16<<10)]
	rest = rest[len(piece):]
	err := r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: piece, EndHeaders: len(rest) == 0})
	for err == nil && len(rest) > 0 {
		piece, rest = rest[:min(len(rest), 16<<10)], rest[min(len(rest), 16<<10):]
		err = r.framer.WriteContinuation(id, len(rest) == 0, piece)
	}
	return id, err
}

// message is a request of Execute with the prefix that gRPC puts before it.
func message(t testing.TB, tool string, args arguments) []byte {
	t.Helper()
	body, err := proto.Marshal(&rpcv1.ExecuteRequest{Tool: tool, Arguments: args})
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
}

// result reads until the stream has ended: its gRPC status, or what HTTP/2 says in place of one.
func (r *raw) result(stream uint32) (status, reason string) {
	_ = r.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		frame, err := r.framer.ReadFrame()
		if err != nil {
			return "closed", ""
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = r.framer.WriteSettingsAck() // an error shows at the next read
			}
		case *http2.GoAwayFrame:
			return "GOAWAY " + f.ErrCode.String(), ""
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return "RST_STREAM " + f.ErrCode.String(), ""
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream && f.StreamEnded() {
				return trailer(f.Fields)
			}
		}
	}
}

func trailer(all []hpack.HeaderField) (status, reason string) {
	for _, f := range all {
		switch f.Name {
		case ":status":
			if f.Value != "200" {
				return "HTTP " + f.Value, ""
			}
		case "grpc-status":
			status = f.Value
		case "grpc-message":
			reason = f.Value
		}
	}
	return status, reason
}

// discard reads and forgets what comes, until the connection ends.
func (r *raw) discard() { _, _ = io.Copy(io.Discard, r.Conn) }

// flood writes over and over by one of the methods below, connecting again when the router hangs up, and counts the frames that it wrote.
func (s *stage) flood(ctx context.Context, burst func(*raw) (frames int, err error)) (frames, connections int) {
	for ctx.Err() == nil {
		r, err := s.dialRaw()
		if err != nil {
			return frames, connections
		}
		connections++
		stop := context.AfterFunc(ctx, func() { _ = r.Close() })
		read := make(chan struct{})
		go func() { r.discard(); close(read) }()
		for err == nil && ctx.Err() == nil {
			var n int
			n, err = burst(r)
			frames += n
			pause(ctx, 5*time.Millisecond)
		}
		stop()
		_ = r.Close()
		<-read
		pause(ctx, 20*time.Millisecond)
	}
	return frames, connections
}

// pause keeps the flood below what would only show that two processes share a machine.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

const burstFrames = 50

func rapidReset(r *raw) (frames int, err error) {
	for range burstFrames / 2 {
		id, err := r.open(fields(executePath))
		if err == nil {
			err = r.framer.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		if err != nil {
			return frames, err
		}
		frames += 2
	}
	return frames, nil
}

// continuation never ends the headers of one request.
func continuation(r *raw) (frames int, err error) {
	if r.stream == 1 {
		r.stream += 2
		r.block.Reset()
		if err := r.encoder.WriteField(hpack.HeaderField{Name: ":method", Value: "POST"}); err != nil {
			return 0, err
		}
		if err := r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.block.Bytes()}); err != nil {
			return 0, err
		}
	}
	r.block.Reset()
	if err := r.encoder.WriteField(hpack.HeaderField{Name: "x-more", Value: strings.Repeat("x", 4000), Sensitive: true}); err != nil {
		return 0, err
	}
	for range burstFrames {
		if err := r.framer.WriteContinuation(1, false, r.block.Bytes()); err != nil {
			return frames, err
		}
		frames++
	}
	return frames, nil
}

func pings(r *raw) (frames int, err error) {
	for range burstFrames {
		if err := r.framer.WritePing(false, [8]byte{1}); err != nil {
			return frames, err
		}
		frames++
	}
	return frames, nil
}

func settings(r *raw) (frames int, err error) {
	for i := range burstFrames {
		if err := r.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(65535 + i)}); err != nil {
			return frames, err
		}
		frames++
	}
	return frames, nil
}
