package bridge

import (
	"context"
	"fmt"
	"sync"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
)

// EndKind says how a call ended.
type EndKind uint8

// Ends of a call.
const (
	// Finished: the worker sent Finish.
	Finished EndKind = iota + 1
	// NotStarted: the link broke, and it is proven that the worker never touched the call.
	NotStarted
	// Recalled: the worker gave the call back unread.
	Recalled
	// MaybeExecuted: the link broke otherwise.
	MaybeExecuted
	// TooLarge: an answer grew beyond the largest message; the worker was told to cancel.
	TooLarge
	// Violation: the worker broke the protocol within this call.
	Violation
)

// End is the end of a call, as its caller sees it.
type End struct {
	Kind    EndKind
	Code    uint16
	Outcome uint16
	Info    *bridgev1.FinishInfo // nil when there was none
	Size    int                  // TooLarge: bytes seen so far
}

// Message is one whole message in pieces; their memory comes from the Buffers of the Config and belongs to whoever took the Message.
type Message struct {
	First *[]byte // nil for an empty message
	More  []*[]byte
	Size  int
}

// answer is one whole message and the credit that it still holds.
type answer struct {
	Message
	owed int
}

// windowStep is the credit that is worth a Window frame.
const windowStep = MaxPayload

// Observer is told what becomes of a call, by the goroutine that reads a connection of the worker.
type Observer interface {
	// CallAccepted: user code may run. It comes when that is first seen, which for a call that the worker notes in its marks is its first headers or
	// message, or the end of the connection; it does not come for one whose Finish is seen first.
	CallAccepted()
	// CallEnded comes exactly once for every call that Queue took, and says that the worker's slot is free; Kind is Finished, NotStarted, Recalled
	// or MaybeExecuted. It reports true when the observer begins the call anew: then nobody else is told of this end.
	CallEnded(End) (again bool)
}

// Part is what an answer brought since the last one: headers, then one message, then the end; each may be missing.
type Part struct {
	Headers    []*bridgev1.Metadatum
	HasHeaders bool
	Message    Message
	HasMessage bool
	End        *End
}

// Call is one call on one worker. Init makes it ready for each try.
type Call struct {
	observer Observer
	wake     chan struct{} // poked when Poll may have something
	worker   *Worker
	data     *conn
	id       uint32
	from     uint64 // where its frame begins in all that was queued for the connection

	mu         sync.Mutex
	queue      []answer
	inline     [1]answer
	partial    Message
	headers    []*bridgev1.Metadatum
	room       chan struct{} // poked when a sender may go on; nil until a request needs more than its first frame
	end        End           // Kind 0: none yet
	owed       int           // bytes of partial whose credit was not given back
	give       int           // credit to give back, once it is worth a frame
	allowed    int           // bytes that the worker may still send
	credit     int
	limit      int
	state      callState
	hasHeaders bool
	taken      bool // Poll handed something out
	cancelled  bool
}

// Init makes the call ready to be queued, for the first time or again. wake has room for one value; it is poked whenever Poll may have something new.
func (c *Call) Init(o Observer, wake chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.observer, c.wake = o, wake
	c.queue, c.partial, c.headers, c.hasHeaders, c.end = c.inline[:0], Message{}, nil, false, End{}
	c.owed, c.give, c.allowed, c.credit = 0, 0, InitialWindow, InitialWindow
	c.state, c.cancelled = callWritten, false
}

// Poll takes what has come. It reports false when there is nothing new.
func (c *Call) Poll() (p Part, ok bool) {
	c.mu.Lock()
	give, worker, id := 0, c.worker, c.id
	if c.hasHeaders {
		p.Headers, p.HasHeaders, c.headers, c.hasHeaders = c.headers, true, nil, false
	}
	if len(c.queue) > 0 {
		first := c.queue[0]
		c.queue[0] = answer{}
		c.queue = c.queue[1:]
		p.Message, p.HasMessage = first.Message, true
		owed := first.owed
		if len(c.queue) == 0 {
			owed += c.owed
			c.owed = 0
		}
		give = c.collect(owed)
	}
	if c.end.Kind != 0 && len(c.queue) == 0 {
		p.End = &c.end // it does not change any more
	}
	ok = p.HasHeaders || p.HasMessage || p.End != nil
	c.taken = c.taken || ok
	c.mu.Unlock()
	if give > 0 {
		worker.giveBack(id, give)
	}
	return p, ok
}

// Recv waits for the next part, or for the end of the context.
func (c *Call) Recv(ctx context.Context) (Part, error) {
	for {
		if p, ok := c.Poll(); ok {
			return p, nil
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return Part{}, ctx.Err()
		}
	}
}

// Accepted reports that the worker was seen to have begun the call.
func (c *Call) Accepted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == callAccepted || c.state == callAnswering
}

// Untouched reports that nothing of an answer was handed out.
func (c *Call) Untouched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.taken
}

// Cancel asks the worker to stop. The call still ends by Finish.
func (c *Call) Cancel(cause uint16) {
	c.mu.Lock()
	first := !c.cancelled && c.end.Kind == 0 && c.worker != nil && c.state != callEnded
	c.cancelled = true
	worker, id, room := c.worker, c.id, c.room
	c.mu.Unlock()
	poke(room)
	if first {
		worker.writeControl(&Frame{Kind: KindCancel, ID: id, Cause: cause})
	}
}

// Stop ends the sending of the request: the call comes to no worker any more.
func (c *Call) Stop() {
	c.mu.Lock()
	c.cancelled = true
	room := c.room
	c.mu.Unlock()
	poke(room)
}

// Recall asks the worker to give the call back, if it has not read it. Either Recalled or the call's normal course follows.
func (c *Call) Recall() {
	c.mu.Lock()
	ask := (c.state == callWritten || c.state == callMarked) && c.worker != nil
	worker, id := c.worker, c.id
	c.mu.Unlock()
	if ask {
		worker.writeControl(&Frame{Kind: KindRecall, ID: id})
	}
}

// marked reports that nothing was seen of the call, and only the marks tell whether it began.
func (c *Call) marked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == callMarked
}

// step moves the call by an event, after the table.
func (c *Call) step(e event) effect {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := callMoves[c.state][e]
	if m.do != breaks {
		c.state = m.to
	}
	return m.do
}

// collect adds credit to give back, and hands it out once it is worth a frame and the call goes on.
func (c *Call) collect(bytes int) (give int) {
	c.give += bytes
	if c.give < windowStep || c.state == callEnded {
		return 0
	}
	give, c.give = c.give, 0
	c.allowed += give
	return give
}

// add takes a payload of an answer into the message under way. It reports the credit to give back at once, and whether the answer grew too large.
func (c *Call) add(f *Frame, owned *[]byte, buffers Buffers) (give int, tooLarge bool, err error) {
	if f.Flags&FlagMessage == 0 {
		return 0, false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(f.Payload)
	if c.allowed -= n; c.allowed < 0 {
		return 0, false, fmt.Errorf("%w: call %d sends beyond its credit", errRule, c.id)
	}
	if c.end.Kind != 0 { // the caller has its end already; the worker must not stall
		return c.collect(n), false, nil
	}
	if size := c.partial.Size + n; size > c.limit {
		c.end = End{Kind: TooLarge, Size: size}
		c.partial, c.queue = Message{}, nil
		poke(c.wake)
		return c.collect(n + c.owed), true, nil
	}
	c.partial.add(f.Payload, owned, buffers)
	if f.Flags&FlagEndMessage == 0 {
		if len(c.queue) == 0 {
			return c.collect(n), false, nil
		}
		c.owed += n
		return 0, false, nil
	}
	c.queue = append(c.queue, answer{c.partial, n + c.owed})
	c.partial, c.owed = Message{}, 0
	if f.Kind == KindMessage {
		poke(c.wake)
	}
	return 0, false, nil
}

// add appends a piece, in memory of its own.
func (m *Message) add(payload []byte, owned *[]byte, buffers Buffers) {
	if len(payload) == 0 {
		return
	}
	piece := owned
	if piece == nil {
		piece = buffers.Get(len(payload))
		copy(*piece, payload)
	}
	m.Size += len(payload)
	if m.First == nil {
		m.First = piece
	} else {
		m.More = append(m.More, piece)
	}
}

// greet records the headers of the answer.
func (c *Call) greet(headers []*bridgev1.Metadatum) {
	c.mu.Lock()
	c.headers, c.hasHeaders = headers, true
	c.mu.Unlock()
	poke(c.wake)
}

// finish records the end for the caller, unless it has one.
func (c *Call) finish(end *End) {
	c.mu.Lock()
	if c.end.Kind == 0 {
		c.end = *end
	}
	room := c.room
	c.mu.Unlock()
	poke(c.wake)
	poke(room)
}

// ended tells the observer, and the caller unless the call begins anew.
func (c *Call) ended(end *End) {
	c.mu.Lock()
	room := c.room
	c.mu.Unlock()
	poke(room) // what is left of this try's request is not wanted
	if !c.observer.CallEnded(*end) {
		c.finish(end)
	}
}

func (c *Call) window(bytes uint32) {
	c.mu.Lock()
	c.credit = min(c.credit+int(bytes), 1<<31)
	room := c.room
	c.mu.Unlock()
	poke(room)
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
