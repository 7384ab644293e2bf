package bridge

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"google.golang.org/protobuf/proto"
)

// writeTimeout bounds a small frame; a peer that does not read so long has a broken connection.
const writeTimeout = 5 * time.Second

// readBuffer holds the largest header with its extension, and many small frames.
const readBuffer = 96 << 10

// conn is one connection with its framing. One goroutine reads; any may write.
type conn struct {
	net.Conn
	role    bridgev1.Role
	version uint32
	reader  *bufio.Reader
	buffers Buffers
	heard   atomic.Uint64 // frames read
	stale   atomic.Bool   // its pair is broken: the peer dials again
	shut    atomic.Bool   // closed by this side
	hailed  atomic.Bool   // Welcome was sent

	unix   *net.UnixConn // of the reader alone: not nil while a Hello may bring a descriptor
	handed int           // that descriptor, -1 for none
	marks  *marks        // of a DATA connection whose worker notes there what begins

	write sync.Mutex // the holder writes; whoever finishes a write looks for what was queued meanwhile
	raw   syscall.RawConn
	try   func(fd uintptr) bool // writes tried once, keeps how far it came
	tried []byte
	n     int
}

func newConn(c net.Conn, b Buffers) *conn {
	wrapped := &conn{Conn: c, buffers: b, handed: -1}
	wrapped.reader = bufio.NewReaderSize(wrapped, readBuffer)
	wrapped.unix, _ = c.(*net.UnixConn)
	if s, ok := c.(syscall.Conn); ok {
		wrapped.raw, _ = s.SyscallConn() // without it every write may wait
	}
	wrapped.try = func(fd uintptr) bool {
		wrapped.n, _ = syscall.Write(int(fd), wrapped.tried) // what is left, and why, is found by the write that waits
		return true
	}
	return wrapped
}

// readFrame reads one frame. Ext is valid until the next call, and so is Payload unless owned holds it.
func (c *conn) readFrame(f *Frame) (owned *[]byte, err error) {
	head, err := c.peek(4)
	if err != nil {
		return nil, err
	}
	n, err := frameLength(head)
	if err != nil {
		return nil, err
	}
	c.heard.Add(1)
	if 4+n <= readBuffer {
		all, err := c.peek(4 + n)
		if err != nil {
			return nil, err
		}
		err = f.decodeBody(all[4:])
		_, _ = c.reader.Discard(4 + n) // buffered; the memory stays until the next read
		return nil, err
	}
	return c.readLong(f, n)
}

// readLong reads a frame that does not fit into the buffer: its payload gets memory of its own.
func (c *conn) readLong(f *Frame, n int) (*[]byte, error) {
	head, err := c.peek(headerBytes)
	if err != nil {
		return nil, err
	}
	fixed, ext := max(int(fixedBytes[head[4]]), 0), 0
	if fixedBytes[head[4]] >= 0 {
		ext = int(head[6]) | int(head[7])<<8
	}
	before := headerBytes + fixed + ext
	if before > 4+n {
		return nil, ErrTruncatedExt
	}
	if head, err = c.peek(before); err != nil {
		return nil, err
	}
	if err := f.decodeLong(head[4:], n-(before-4)); err != nil {
		return nil, err
	}
	f.Ext = append([]byte(nil), f.Ext...)
	_, _ = c.reader.Discard(before) // buffered
	payload := c.buffers.Get(n - (before - 4))
	if _, err := io.ReadFull(c.reader, *payload); err != nil {
		c.buffers.Put(payload)
		return nil, unexpected(err)
	}
	f.Payload = *payload
	return payload, nil
}

// peek waits for n bytes; an end in the middle of a frame is told apart from one between two.
func (c *conn) peek(n int) ([]byte, error) {
	b, err := c.reader.Peek(n)
	if err != nil && len(b) > 0 {
		return nil, unexpected(err)
	}
	return b, err
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// send writes bytes that must not be torn apart, in at most writeTimeout.
func (c *conn) send(b []byte) error {
	c.write.Lock()
	defer c.write.Unlock()
	return c.sendLocked(b)
}

func (c *conn) sendLocked(b []byte) error {
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout)) // fails only on a closed connection, and so does Write
	_, err := c.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) { // a torn frame; after any other error what the peer sent is still readable
		c.end()
	}
	return err
}

// offerLocked writes what the socket takes at once, and reports how much that was. It never waits.
func (c *conn) offerLocked(b []byte) int {
	if c.raw == nil {
		return 0
	}
	c.tried, c.n = b, 0
	_ = c.raw.Write(c.try) // a closed connection takes nothing
	c.tried = nil
	return max(c.n, 0)
}

// end closes the connection from this side: what the peer had in flight is not read any more.
func (c *conn) end() {
	c.shut.Store(true)
	_ = c.Close() // nothing can be done about a socket that does not close
}

// goodbye says why, and closes.
func (c *conn) goodbye(reason bridgev1.GoodbyeReason, message string) {
	if len(message) > 256 {
		message = message[:256]
	}
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout)) // whoever waits for this peer gives up
	payload, err := proto.Marshal(&bridgev1.Goodbye{Reason: reason, Message: message})
	if err == nil {
		f := Frame{Kind: KindGoodbye, Payload: payload}
		_ = c.send(f.Append(nil)) // it is closed either way
	}
	c.end()
}

// ended reports whether the peer ended the stream and everything it had sent was read.
func (c *conn) ended(err error) bool {
	return !c.shut.Load() && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET))
}

// violation reports whether the error is a broken rule and not a broken connection.
func violation(err error) bool {
	for _, e := range []error{ErrTooShort, ErrTooLong, ErrTruncatedFixed, ErrTruncatedExt, ErrPayloadTooLong, errRule} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

var errRule = errors.New("protocol rule broken")
