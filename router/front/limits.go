package front

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/mem"
)

// limited refuses connections beyond a number at a time: it closes them at once, so that their clients go elsewhere instead of waiting.
type limited struct {
	net.Listener
	free    atomic.Int64
	answers *Answers
}

func limitConnections(l net.Listener, n int, a *Answers) net.Listener {
	limited := &limited{Listener: l, answers: a}
	limited.free.Store(int64(n))
	return limited
}

// Accept waits for a connection that there is room for.
func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.free.Add(-1) >= 0 {
			unread := l.answers.Connection()
			return &counted{Conn: conn, peer: peerOf(conn.RemoteAddr(), unread), unread: unread, listener: l}, nil
		}
		l.free.Add(1)
		_ = conn.Close() // it was never used
	}
}

type counted struct {
	net.Conn
	peer     net.Addr
	unread   *Unread
	once     sync.Once
	listener *limited
}

// Close makes room for another connection.
func (c *counted) Close() error {
	c.once.Do(func() {
		c.listener.free.Add(1)
		c.unread.end()
	})
	return c.Conn.Close()
}

// RemoteAddr is the caller's address, with its text as gRPC names it made once.
func (c *counted) RemoteAddr() net.Addr { return c.peer }

// peerAddr is an address whose text is that of gRPC's peer, such as ipv4:10.0.0.7:51234.
type peerAddr struct {
	net.Addr
	text   string
	unread *Unread
}

func (a *peerAddr) String() string { return a.text }

func peerOf(a net.Addr, unread *Unread) net.Addr {
	if a == nil {
		return nil
	}
	text := a.String()
	if tcp, ok := a.(*net.TCPAddr); ok {
		family := "ipv6:"
		if tcp.IP.To4() != nil {
			family = "ipv4:"
		}
		text = family + text
	} else {
		text = a.Network() + ":" + text
	}
	return &peerAddr{a, text, unread}
}

// unreadOf is nil for an address that does not come from limited.
func unreadOf(a net.Addr) *Unread {
	if known, ok := a.(*peerAddr); ok {
		return known.unread
	}
	return nil
}

// Answers counts the bytes of large answers that no caller has read yet, of all connections.
type Answers struct {
	used atomic.Int64
	most int64 // above it no call begins whose connection has unread ones
	each int64 // the same for what one connection has not read
}

// NewAnswers allows all connections to leave half of so many bytes unread, and each of them a quarter.
func NewAnswers(budget int64) *Answers { return &Answers{most: budget / 2, each: budget / 4} }

// Connection counts for one more.
func (a *Answers) Connection() *Unread { return &Unread{all: a} }

// Unread counts the bytes of large answers on their way to the callers of one connection. It is the pool to which these bytes go back, so that grpc
// says when they are written. What a connection did not take counts until it ends.
type Unread struct {
	all    *Answers
	mu     sync.Mutex
	memory mem.BufferPool
	bytes  int64
	gone   bool
}

// Hold counts n more bytes, each piece by its capacity, whose memory goes back to that pool.
func (u *Unread) Hold(n int, memory mem.BufferPool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.memory = memory
	u.add(int64(n))
}

// Get is never asked: it makes a mem.BufferPool of it.
func (u *Unread) Get(n int) *[]byte {
	b := make([]byte, n)
	return &b
}

// Put counts a piece as read, and gives its memory back.
func (u *Unread) Put(b *[]byte) {
	u.mu.Lock()
	memory := u.memory
	u.add(-int64(cap(*b)))
	u.mu.Unlock()
	memory.Put(b)
}

func (u *Unread) add(n int64) {
	u.bytes += n
	if !u.gone {
		u.all.used.Add(n)
	}
}

func (u *Unread) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.gone {
		u.gone = true
		u.all.used.Add(-u.bytes)
	}
}

// Full is the failure of a call whose answer would have no room, nil where there is room: the connection does not read, and has had its part.
func (u *Unread) Full() *Failure {
	u.mu.Lock()
	bytes := u.bytes
	u.mu.Unlock()
	if bytes < u.all.each && (bytes == 0 || u.all.used.Load() < u.all.most) {
		return nil
	}
	return &Failure{
		Reason: ReasonQueueFull, Wait: time.Second,
		Message: fmt.Sprintf("no room for an answer: this connection has not read %d bytes of earlier ones", bytes),
		Info:    map[string]string{"budget": strconv.FormatInt(u.all.each, 10), "unread": strconv.FormatInt(bytes, 10)},
	}
}

// budget bounds the bytes of messages in flight. Whoever does not find room waits in order.
type budget struct {
	total   int64
	used    atomic.Int64
	waiting atomic.Int64

	mu    sync.Mutex
	queue []*claim
}

// claim waits for n bytes.
type claim struct {
	n    int64
	done chan struct{}
}

// newBudget makes a budget of so many bytes, of which at least one message of any allowed size fits.
func newBudget(total int64) *budget { return &budget{total: max(total, 1)} }

// take waits until n bytes fit, at most so long. More than the whole budget counts as the whole.
func (b *budget) take(ctx context.Context, n int64, wait time.Duration) error {
	n = min(n, b.total)
	if b.waiting.Load() == 0 && b.tryTake(n) {
		return nil
	}
	c := &claim{n, make(chan struct{})}
	b.mu.Lock()
	b.queue = append(b.queue, c)
	b.waiting.Store(int64(len(b.queue)))
	b.grant()
	b.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var err error
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = &Failure{
			Reason: ReasonQueueTimeout, Wait: time.Second,
			Message: fmt.Sprintf("no room for a message of %d bytes within queue.timeout of %s: the router's budget for messages is used up", n, wait),
			Info:    map[string]string{"budget": strconv.FormatInt(b.total, 10), "size": strconv.FormatInt(n, 10)},
		}
	}
	if !b.withdraw(c) { // it was granted meanwhile
		b.give(n)
	}
	return err
}

func (b *budget) tryTake(n int64) bool {
	if b.used.Add(n) <= b.total {
		return true
	}
	b.used.Add(-n)
	return false
}

// give returns what was taken: n as it was given to take.
func (b *budget) give(n int64) {
	if n == 0 {
		return
	}
	b.used.Add(-min(n, b.total))
	if b.waiting.Load() > 0 {
		b.mu.Lock()
		b.grant()
		b.mu.Unlock()
	}
}

// grant serves the queue in order; under mu.
func (b *budget) grant() {
	for len(b.queue) > 0 && b.tryTake(b.queue[0].n) {
		close(b.queue[0].done)
		b.queue[0] = nil
		b.queue = b.queue[1:]
	}
	b.waiting.Store(int64(len(b.queue)))
}

// withdraw takes a claim out; false when it was granted.
func (b *budget) withdraw(c *claim) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, x := range b.queue {
		if x == c {
			b.queue = append(b.queue[:i:i], b.queue[i+1:]...)
			b.grant()
			return true
		}
	}
	return false
}

// cgroupLimits are where the kernel says how much memory this process may use, in versions 2 and 1.
var cgroupLimits = []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}

// unlimited is what cgroups of version 1 say, about: more than any machine has.
const unlimited = 1 << 60

// MemoryLimit is what this process may use by its cgroup, in bytes; 0 where nothing limits it.
func MemoryLimit() int64 {
	for _, file := range cgroupLimits {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 && n < unlimited {
			return n
		}
	}
	return 0
}

// DefaultBudget is half of what this process may use by GOMEMLIMIT or its cgroup, whichever is less, in bytes; 1 GiB where nothing limits it.
func DefaultBudget() int64 {
	limit := debug.SetMemoryLimit(-1)
	if cgroup := MemoryLimit(); cgroup > 0 {
		limit = min(limit, cgroup)
	}
	if limit >= unlimited {
		return 1 << 30
	}
	return limit / 2
}
