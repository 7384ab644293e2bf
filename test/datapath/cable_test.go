package datapath

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/snakepit-k8s/snakepit/router/bridge"
)

// cable is a socket between the workers and the router that can be cut at any frame. Nothing that one side was told by the other is lost otherwise,
// so that what it makes of a call is what a broken socket would.
type cable struct {
	t      testing.TB
	path   string
	listen net.Listener
	group  sync.WaitGroup

	mu     sync.Mutex
	target string // the router's socket; empty while there is none
	ends   map[net.Conn]bool
	cuts   []*cut
	forge  func(frame []byte) // may change a Call
}

// cut is one place at which the cable breaks, once.
type cut struct {
	fromWorker bool
	kind       bridge.Kind
	pass       int  // frames of that kind that are let through before
	half       bool // of the frame is passed on; all of it with whole, none of it otherwise
	whole      bool
	accepted   bool // only where an Accepted was passed on before
}

func newCable(t testing.TB) *cable {
	t.Helper()
	dir, err := os.MkdirTemp("", "spk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &cable{t: t, path: filepath.Join(dir, "cable.sock"), ends: map[net.Conn]bool{}}
	if c.listen, err = net.Listen("unix", c.path); err != nil {
		t.Fatal(err)
	}
	c.group.Go(c.accept)
	t.Cleanup(func() {
		_ = c.listen.Close()
		c.cutAll()
		c.group.Wait()
	})
	return c
}

// env makes workers and supervisor dial the cable.
func (c *cable) env() string { return "SNAKEPIT_BRIDGE=" + c.path }

// lead leads the cable to the router.
func (c *cable) lead(socket string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.target = socket
}

// arm adds places to cut at.
func (c *cable) arm(cuts ...*cut) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cuts = append(c.cuts, cuts...)
}

// left is the number of cuts that have not happened.
func (c *cable) left() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.cuts)
}

// disarm gives up the cuts that have not happened.
func (c *cable) disarm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cuts = nil
}

// forgeCalls lets a function change every Call that passes, head and fixed part included; nil ends it.
func (c *cable) forgeCalls(forge func(frame []byte)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forge = forge
}

// cutAll breaks every connection, and returns their number.
func (c *cable) cutAll() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for end := range c.ends {
		_ = end.Close()
	}
	return len(c.ends) / 2
}

func (c *cable) accept() {
	for {
		worker, err := c.listen.Accept()
		if err != nil {
			return
		}
		c.mu.Lock()
		target := c.target
		c.mu.Unlock()
		router, err := net.Dial("unix", target)
		if err != nil {
			_ = worker.Close()
			continue
		}
		l := &line{cable: c, worker: worker, router: router, accepted: make(chan struct{})}
		c.mu.Lock()
		c.ends[worker], c.ends[router] = true, true
		c.mu.Unlock()
		var both sync.WaitGroup
		both.Go(func() { l.carry(worker, router, true) })
		both.Go(func() { l.carry(router, worker, false) })
		c.group.Go(func() {
			both.Wait()
			c.mu.Lock()
			delete(c.ends, worker)
			delete(c.ends, router)
			c.mu.Unlock()
		})
	}
}

// line is one connection.
type line struct {
	cable          *cable
	worker, router net.Conn
	once           sync.Once
	accepted       chan struct{} // closed once an Accepted was passed on
}

// carry passes frames on until either end, or a cut. When a side does not take anything any more, what it had said before is still on its way.
func (l *line) carry(from, to net.Conn, fromWorker bool) {
	for {
		frame, err := l.cable.next(from)
		if err != nil {
			_, _ = from.Close(), to.Close()
			return
		}
		kind := bridge.Kind(frame[4])
		if at := l.cable.look(frame, kind, fromWorker); at != nil {
			l.breakAt(at, frame, to)
			if fromWorker {
				_, _ = from.Close(), to.Close()
			} else { // what the worker had said is passed on before it, too, ends
				_ = to.(*net.UnixConn).CloseWrite()
			}
			return
		}
		if _, err := to.Write(frame); err != nil {
			return
		}
		if kind == bridge.KindAccepted {
			l.once.Do(func() { close(l.accepted) })
		}
	}
}

func (c *cable) next(from io.Reader) ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(from, head); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head)
	if n < 8 || n > 1<<20 {
		c.t.Errorf("a frame of %d bytes", n)
		return nil, io.ErrUnexpectedEOF
	}
	frame := append(head, make([]byte, n)...)
	_, err := io.ReadFull(from, frame[4:])
	return frame, err
}

func (l *line) breakAt(at *cut, frame []byte, to net.Conn) {
	if at.accepted {
		select {
		case <-l.accepted:
		case <-time.After(10 * time.Second):
			l.cable.t.Error("the call was not accepted before the cut")
		}
	}
	switch {
	case at.half:
		frame = frame[:len(frame)/2]
	case !at.whole:
		frame = nil
	}
	_, _ = to.Write(frame) // it breaks now anyway
}

// look finds the cut that this frame is due for.
func (c *cable) look(frame []byte, kind bridge.Kind, fromWorker bool) *cut {
	c.mu.Lock()
	defer c.mu.Unlock()
	if kind == bridge.KindCall && c.forge != nil {
		c.forge(frame)
	}
	for i, at := range c.cuts {
		if at.kind != kind || at.fromWorker != fromWorker {
			continue
		}
		if at.pass > 0 {
			at.pass--
			return nil
		}
		c.cuts = append(c.cuts[:i:i], c.cuts[i+1:]...)
		return at
	}
	return nil
}
