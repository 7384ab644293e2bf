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

// answer is one whole message and the credit that it still holds.
type answer struct {
	data []byte
	owed int
}

// windowStep is the credit that is worth a Window frame.
const windowStep = InitialWindow / 4

// Observer is told what becomes of a call, by the goroutine that reads the worker's connection. Ended comes exactly once for every call that
// Start took, and says that the worker's slot is free (Kind is Finished, NotStarted or MaybeExecuted).
type Observer interface {
	CallAccepted()
	CallEnded(End)
}

// Call is one call on one worker.
type Call struct {
	observer Observer
	worker   *Worker
	id       uint32

	mu        sync.Mutex
	wake      chan struct{} // an answer or the end has come
	credited  chan struct{} // credit or the end has come
	queue     []answer
	partial   []byte
	owed      int // bytes of partial whose credit was not given back
	give      int // credit to give back, once it is worth a frame
	allowed   int // bytes that the worker may still send
	end       *End
	credit    int
	limit     int
	state     callState
	written   bool // the Call frame is in the socket
	cancelled bool
}

// NewCall makes a call whose fate the observer is told. A Call is started once.
func NewCall(o Observer) *Call {
	return &Call{observer: o, wake: make(chan struct{}, 1), credited: make(chan struct{}, 1), credit: InitialWindow, allowed: InitialWindow}
}

// Recv waits for the next answer. It returns the end instead when there is none, and the context's error when that comes first.
func (c *Call) Recv(ctx context.Context) ([]byte, *End, error) {
	for {
		c.mu.Lock()
		if len(c.queue) > 0 {
			first := c.queue[0]
			c.queue[0] = answer{}
			c.queue = c.queue[1:]
			owed := first.owed
			if len(c.queue) == 0 {
				owed += c.owed
				c.owed = 0
			}
			give := c.collect(owed)
			c.mu.Unlock()
			c.worker.giveBack(c.id, give)
			return first.data, nil, nil
		}
		if end := c.end; end != nil {
			c.mu.Unlock()
			return nil, end, nil
		}
		c.mu.Unlock()
		select {
		case <-c.wake:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// Cancel asks the worker to stop. The call still ends by Finish.
func (c *Call) Cancel(cause uint16) {
	c.mu.Lock()
	first := !c.cancelled && c.end == nil && c.worker != nil
	c.cancelled = true
	worker, id := c.worker, c.id
	c.mu.Unlock()
	poke(c.credited)
	if first {
		worker.writeControl(&Frame{Kind: KindCancel, ID: id, Cause: cause})
	}
}

// Accepted reports whether the worker has begun the call.
func (c *Call) Accepted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state != callWritten
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

// message takes a payload of an answer. It reports the credit to give back at once, and whether the answer grew too large.
func (c *Call) message(flags uint8, payload []byte) (give int, tooLarge bool, err error) {
	if flags&FlagMessage == 0 {
		return 0, false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(payload)
	if c.allowed -= n; c.allowed < 0 {
		return 0, false, fmt.Errorf("%w: call %d sends beyond its credit", errRule, c.id)
	}
	if c.end != nil { // the caller has its end already; the worker must not stall
		return c.collect(n), false, nil
	}
	if size := len(c.partial) + n; size > c.limit {
		c.end = &End{Kind: TooLarge, Size: size}
		c.partial, c.queue = nil, nil
		poke(c.wake)
		return c.collect(n + c.owed), true, nil
	}
	if flags&FlagEndMessage == 0 {
		c.partial = append(c.partial, payload...)
		if len(c.queue) == 0 {
			return c.collect(n), false, nil
		}
		c.owed += n
		return 0, false, nil
	}
	if c.partial != nil {
		payload = append(c.partial, payload...)
		c.partial = nil
	}
	c.queue = append(c.queue, answer{payload, n + c.owed})
	c.owed = 0
	poke(c.wake)
	return 0, false, nil
}

// finish records the end for the caller, unless it has one.
func (c *Call) finish(end End) {
	c.mu.Lock()
	if c.end == nil {
		c.end = &end
	}
	c.mu.Unlock()
	poke(c.wake)
	poke(c.credited)
}

// take waits for credit for at most n bytes and reports how many may be sent; 0 when the rest is not wanted any more.
func (c *Call) take(n int) int {
	for {
		c.mu.Lock()
		if c.cancelled || c.end != nil || c.state == callEnded {
			c.mu.Unlock()
			return 0
		}
		if c.credit > 0 {
			n = min(n, c.credit, MaxPayload)
			c.credit -= n
			c.mu.Unlock()
			return n
		}
		c.mu.Unlock()
		<-c.credited
	}
}

func (c *Call) window(bytes uint32) {
	c.mu.Lock()
	c.credit = min(c.credit+int(bytes), 1<<31)
	c.mu.Unlock()
	poke(c.credited)
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
