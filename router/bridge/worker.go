package bridge

import (
	"fmt"
	"sync"
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"google.golang.org/protobuf/proto"
)

// Incarnation is one life of one worker process in this container.
type Incarnation struct {
	Nonce uint64
	Slot  uint16
}

// Worker is the link to one incarnation: a pair of connections that may break and come again.
type Worker struct {
	ID         Incarnation
	Attachment any // the Handler's own, set in WorkerRegistered

	server *Server
	proof  []byte
	pod    string

	mu      sync.Mutex // never held while writing
	data    *conn
	control *conn
	calls   map[uint32]*Call
	nextID  uint32
	closes  []byte // SessionClose frames to be written when a slot is free, or with the next call
	out     []byte // frames to be written as they are
	spare   []byte // belongs to the holder of the connection's write lock
	queued  uint64 // bytes that came into out since the connection began
	wrote   uint64 // bytes of them that were handed to a write
	said    Declared
	slots   int
	pulse   pulse // of Server.heartbeat alone
	usage   usage
	up      bool
	exited  bool
	ending  bool // the ends of its calls are being told
}

// Declared is what a worker's Hello says of itself.
type Declared struct {
	Version int
	Slots   int // calls that may run at a time, 1 to 256
	Tools   []*bridgev1.Tool
	Methods []*bridgev1.Method
	// Files are serialized FileDescriptorProtos, as they came.
	Files [][]byte
}

func declared(h *bridgev1.Hello, version uint32) Declared {
	d := Declared{Version: int(version), Slots: 1, Tools: h.GetTools()}
	if version >= 2 {
		d.Slots, d.Methods, d.Files = max(int(h.GetSlots()), 1), h.GetMethods(), h.GetFileDescriptors()
	}
	return d
}

// Declared reads what the worker said when it connected last. The zero value before that.
func (w *Worker) Declared() Declared {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said
}

// OpenSession begins a life without a call. On ErrDown nothing was written.
func (w *Worker) OpenSession(name string, epoch uint64) error {
	w.mu.Lock()
	if !w.up {
		w.mu.Unlock()
		return ErrDown
	}
	before := len(w.out)
	w.out = append(w.out, w.closes...)
	w.closes = w.closes[:0]
	w.out = appendOpen(w.out, name, epoch)
	w.queued += uint64(len(w.out) - before)
	w.mu.Unlock()
	w.Flush()
	return nil
}

// QueueClose notes that a life is over. It never blocks; the frame goes out before anything later, by Flush or with the next call.
func (w *Worker) QueueClose(epoch uint64, cause uint16) {
	f := Frame{Kind: KindSessionClose, Epoch: epoch, Cause: cause}
	w.mu.Lock()
	w.closes = f.Append(w.closes)
	w.mu.Unlock()
}

func (w *Worker) giveBack(id uint32, bytes int) {
	if bytes > 0 {
		w.writeControl(&Frame{Kind: KindWindow, ID: id, Bytes: uint32(bytes)})
	}
}

func (w *Worker) writeControl(f *Frame) {
	w.mu.Lock()
	control := w.control
	w.mu.Unlock()
	if control != nil {
		_ = control.send(f.Append(make([]byte, 0, 24))) // a broken link is told by its reader
	}
}

func (w *Worker) call(id uint32) *Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[id]
}

func (w *Worker) forget(id uint32) {
	w.mu.Lock()
	delete(w.calls, id)
	w.mu.Unlock()
}

// readData reads the DATA connection until it breaks.
func (w *Worker) readData(c *conn) error {
	var f Frame
	for {
		owned, err := c.readFrame(&f)
		if err != nil {
			return err
		}
		if !allowed[c.role][f.Kind] {
			return fmt.Errorf("%w: kind 0x%02x on a DATA connection", errRule, uint8(f.Kind))
		}
		if err := w.dataFrame(&f, owned); err != nil {
			return err
		}
	}
}

func (w *Worker) dataFrame(f *Frame, owned *[]byte) error {
	switch f.Kind {
	case KindGoodbye:
		return nil // the end of the stream follows
	case KindSessionOpened, KindSessionClosed:
		end := &bridgev1.SessionEnd{}
		if err := proto.Unmarshal(f.Ext, end); err != nil {
			return fmt.Errorf("%w: SessionEnd does not parse", errRule)
		}
		if f.Kind == KindSessionOpened {
			w.server.handler.SessionOpened(w, f.Epoch, f.Status, end)
		} else {
			w.server.handler.SessionClosed(w, f.Epoch, f.Status, end)
		}
		return nil
	}
	c := w.call(f.ID)
	if c == nil {
		if f.ID == 0 || fixedBytes[f.Kind] < 0 {
			return nil // unknown kinds are ignored where no call is concerned
		}
		return fmt.Errorf("%w: kind 0x%02x for call %d, which does not run", errRule, uint8(f.Kind), f.ID)
	}
	if fixedBytes[f.Kind] < 0 {
		c.finish(&End{Kind: Violation})
		return nil
	}
	return w.callFrame(c, f, owned)
}

func (w *Worker) callFrame(c *Call, f *Frame, owned *[]byte) error {
	marked := f.Kind != KindFinish && c.marked()
	if c.step(eventOf(f)) == breaks {
		return fmt.Errorf("%w: frame of kind 0x%02x (outcome %d) out of order in call %d", errRule, uint8(f.Kind), f.Outcome, f.ID)
	}
	if marked && (f.Kind == KindHeaders || f.Kind == KindMessage) {
		c.observer.CallAccepted()
	}
	switch f.Kind {
	case KindAccepted:
		c.observer.CallAccepted()
		c.mu.Lock()
		room := c.room
		c.mu.Unlock()
		poke(room)
		return nil
	case KindHeaders:
		info := &bridgev1.HeadersInfo{}
		if err := proto.Unmarshal(f.Ext, info); err != nil {
			return fmt.Errorf("%w: HeadersInfo does not parse", errRule)
		}
		c.greet(info.GetMetadata())
		return nil
	}
	give, tooLarge, err := c.add(f, owned, w.server.config.Buffers)
	if err != nil {
		return err
	}
	w.giveBack(c.id, give)
	if tooLarge {
		w.writeControl(&Frame{Kind: KindCancel, ID: c.id, Cause: CancelByCaller})
	}
	if f.Kind != KindFinish {
		return nil
	}
	end := End{Kind: Finished, Code: f.Code, Outcome: f.Outcome}
	if len(f.Ext) > 0 {
		end.Info = &bridgev1.FinishInfo{}
		if err := proto.Unmarshal(f.Ext, end.Info); err != nil {
			return fmt.Errorf("%w: FinishInfo does not parse", errRule)
		}
	}
	w.forget(f.ID)
	c.ended(&end)
	w.Flush()
	return nil
}

// readControl reads the CONTROL connection until it breaks.
func (w *Worker) readControl(c *conn) error {
	var f Frame
	for {
		if _, err := c.readFrame(&f); err != nil {
			return err
		}
		if !allowed[c.role][f.Kind] {
			return fmt.Errorf("%w: kind 0x%02x on a CONTROL connection", errRule, uint8(f.Kind))
		}
		switch f.Kind {
		case KindPing:
			f.Kind = KindPong
			_ = c.send(f.Append(nil)) // a broken link is told by its reader
		case KindWindow:
			if call := w.call(f.ID); call != nil {
				call.window(f.Bytes)
			}
		case KindRecalled:
			w.recalled(f.ID)
		}
	}
}

// recalled: the worker will never run the call.
func (w *Worker) recalled(id uint32) {
	c := w.call(id)
	if c == nil || c.step(onRecalled) != proves {
		return // it ended, or had begun
	}
	w.forget(id)
	c.ended(&End{Kind: Recalled})
	w.Flush()
}

// heard counts the frames that came over the connections of now.
func (w *Worker) heard() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := uint64(0)
	for _, c := range []*conn{w.data, w.control} {
		if c != nil {
			n += c.heard.Load()
		}
	}
	return n
}

// used records what the supervisor measured.
func (w *Worker) used(u *bridgev1.WorkerUsage, now time.Time) {
	w.mu.Lock()
	w.usage = usage{cpu: time.Duration(u.GetCpuUs()) * time.Microsecond, at: now}
	w.mu.Unlock()
}
