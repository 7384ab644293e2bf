package bridge

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"google.golang.org/protobuf/proto"
)

// ErrDown says that the worker is not connected: nothing was written.
var ErrDown = errors.New("worker is not connected")

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
	closes  []byte // SessionClose frames to be written before anything else
	tools   []*bridgev1.Tool
	pid     uint32
	up      bool
	exited  bool
	ending  bool // the ends of its calls are being told
}

// Open begins a life at the worker before its first call.
type Open struct {
	Name  string
	Epoch uint64
}

// Request is what Start writes.
type Request struct {
	Open       *Open // nil when the worker has the life already
	Epoch      uint64
	Timeout    time.Duration // 0: none
	Info       []byte        // CallInfo, encoded
	Payload    []byte
	MaxMessage int // of each answer
	Tool       uint16
}

// Tools that the adapter declared; the index of an entry is its number in Request.Tool. Nil before the worker was connected.
func (w *Worker) Tools() []*bridgev1.Tool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tools
}

// Start writes the call, with the SessionOpen that it needs. On ErrDown nothing was written and the observer is told nothing.
func (w *Worker) Start(c *Call, r *Request) error {
	w.mu.Lock()
	if !w.up {
		w.mu.Unlock()
		return ErrDown
	}
	data := w.data
	w.nextID++
	c.mu.Lock()
	c.worker, c.id, c.limit = w, w.nextID, r.MaxMessage
	c.mu.Unlock()
	w.calls[c.id] = c
	w.mu.Unlock()

	first := c.take(min(len(r.Payload), MaxPayload))
	flags := uint8(FlagMessage)
	if first == len(r.Payload) {
		flags |= FlagEndMessage | FlagEndStream
	}
	frame := Frame{Kind: KindCall, Flags: flags, ID: c.id, Tool: r.Tool, Epoch: r.Epoch, Ext: r.Info,
		Timeout: uint64(max(r.Timeout.Microseconds(), 0))}
	err := w.writeCall(data, c, r, &frame, r.Payload[:first])
	if err == nil && first < len(r.Payload) {
		w.writeRest(data, c, r.Payload[first:])
	}
	return nil // a failed write is told by the reader, which knows whether the worker had begun
}

// writeCall writes what the worker must hear first, the call, and its first piece, as one.
func (w *Worker) writeCall(data *conn, c *Call, r *Request, f *Frame, payload []byte) error {
	data.write.Lock()
	defer data.write.Unlock()
	w.mu.Lock()
	head := w.closes
	w.closes = nil
	w.mu.Unlock()
	if r.Open != nil {
		head = appendOpen(head, r.Open)
	}
	head = f.AppendHeader(head, len(payload))
	_ = data.SetWriteDeadline(time.Time{}) // a worker may take its time with a long payload
	var err error
	if len(payload) <= 16<<10 {
		_, err = data.Write(append(head, payload...))
	} else {
		buffers := net.Buffers{head, payload}
		_, err = buffers.WriteTo(data.Conn)
	}
	if err == nil {
		c.mu.Lock()
		c.written = true
		c.mu.Unlock()
	}
	return err
}

// writeRest sends the request beyond its first piece, as credit comes.
func (w *Worker) writeRest(data *conn, c *Call, payload []byte) {
	for len(payload) > 0 {
		n := c.take(min(len(payload), MaxPayload))
		if n == 0 {
			return
		}
		f := Frame{Kind: KindMessage, Flags: FlagMessage, ID: c.id}
		if n == len(payload) {
			f.Flags |= FlagEndMessage | FlagEndStream
		}
		data.write.Lock()
		_ = data.SetWriteDeadline(time.Time{})
		buffers := net.Buffers{f.AppendHeader(nil, n), payload[:n]}
		_, err := buffers.WriteTo(data.Conn)
		data.write.Unlock()
		if err != nil {
			return
		}
		payload = payload[n:]
	}
}

func appendOpen(b []byte, o *Open) []byte {
	ext, err := proto.Marshal(&bridgev1.SessionInfo{Name: o.Name})
	if err != nil {
		ext = nil // a name is plain ASCII: this cannot happen
	}
	f := Frame{Kind: KindSessionOpen, Epoch: o.Epoch, Ext: ext}
	return f.Append(b)
}

// OpenSession begins a life without a call. On ErrDown nothing was written.
func (w *Worker) OpenSession(o Open) error {
	w.mu.Lock()
	data, up := w.data, w.up
	if !up {
		w.mu.Unlock()
		return ErrDown
	}
	w.closes = appendOpen(w.closes, &o)
	w.mu.Unlock()
	w.flushTo(data)
	return nil
}

// QueueClose notes that a life is over. It never blocks; the frame goes out before anything later, by Flush or with the next call.
func (w *Worker) QueueClose(epoch uint64, cause uint16) {
	f := Frame{Kind: KindSessionClose, Epoch: epoch, Cause: cause}
	w.mu.Lock()
	w.closes = f.Append(w.closes)
	w.mu.Unlock()
}

// Flush writes queued closes, unless a call runs: then they follow its end.
func (w *Worker) Flush() {
	w.mu.Lock()
	data, ok := w.data, w.up && len(w.calls) == 0 && len(w.closes) > 0
	w.mu.Unlock()
	if ok {
		w.flushTo(data)
	}
}

func (w *Worker) flushTo(data *conn) {
	data.write.Lock()
	defer data.write.Unlock()
	w.mu.Lock()
	b := w.closes
	w.closes = nil
	w.mu.Unlock()
	if len(b) > 0 {
		_ = data.sendLocked(b) // a broken link is told by its reader; the worker's table is asked again by epochs
	}
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

// readData reads the DATA connection until it breaks.
func (w *Worker) readData(c *conn) error {
	var f Frame
	for {
		if err := c.readFrame(&f); err != nil {
			return err
		}
		if !allowed[c.role][f.Kind] {
			return fmt.Errorf("%w: kind 0x%02x on a DATA connection", errRule, uint8(f.Kind))
		}
		if err := w.dataFrame(&f); err != nil {
			return err
		}
	}
}

func (w *Worker) dataFrame(f *Frame) error {
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
	w.mu.Lock()
	c := w.calls[f.ID]
	w.mu.Unlock()
	if c == nil {
		if f.ID == 0 || fixedBytes[f.Kind] < 0 {
			return nil // unknown kinds are ignored where no call is concerned
		}
		return fmt.Errorf("%w: kind 0x%02x for call %d, which does not run", errRule, uint8(f.Kind), f.ID)
	}
	if fixedBytes[f.Kind] < 0 {
		c.finish(End{Kind: Violation})
		return nil
	}
	return w.callFrame(c, f)
}

func (w *Worker) callFrame(c *Call, f *Frame) error {
	c.mu.Lock()
	next, err := c.state.next(f)
	if err == nil {
		c.state = next
	}
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%w: %w", errRule, err)
	}
	if f.Kind == KindAccepted {
		c.observer.CallAccepted()
		return nil
	}
	give, tooLarge, err := c.message(f.Flags, f.Payload)
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
	w.mu.Lock()
	delete(w.calls, c.id)
	w.mu.Unlock()
	c.observer.CallEnded(end)
	c.finish(end)
	w.Flush()
	return nil
}

// readControl reads the CONTROL connection until it breaks.
func (w *Worker) readControl(c *conn) error {
	var f Frame
	for {
		if err := c.readFrame(&f); err != nil {
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
			w.mu.Lock()
			call := w.calls[f.ID]
			w.mu.Unlock()
			if call != nil {
				call.window(f.Bytes)
			}
		}
	}
}
