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

// scratchBytes hold the frames that keep no payload.
const scratchBytes = 64

// conn is one connection with its framing. One goroutine reads; any may write.
type conn struct {
	net.Conn
	role   bridgev1.Role
	reader *bufio.Reader
	write  sync.Mutex
	heard  atomic.Int64 // unix nanoseconds of the last byte read
	stale  atomic.Bool  // its pair is broken: the peer dials again
	shut   atomic.Bool  // closed by this side
	hailed atomic.Bool  // Welcome was sent
	body   [scratchBytes]byte
}

func newConn(c net.Conn) *conn {
	return &conn{Conn: c, reader: bufio.NewReaderSize(c, 64<<10)}
}

// readFrame reads one frame. Its memory is the frame's own when it has a payload, and else valid until the next call.
func (c *conn) readFrame(f *Frame) error {
	head, err := c.reader.Peek(4)
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	n, err := frameLength(head)
	if err != nil {
		return err
	}
	_, _ = c.reader.Discard(4) // buffered
	body := c.body[:]
	if n > len(body) {
		body = make([]byte, n)
	}
	if _, err := io.ReadFull(c.reader, body[:n]); err != nil {
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	c.heard.Store(time.Now().UnixNano())
	if err := f.decodeBody(body[:n]); err != nil {
		return err
	}
	if n <= len(c.body) && len(f.Payload) > 0 {
		f.Payload = append([]byte(nil), f.Payload...)
	}
	return nil
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
