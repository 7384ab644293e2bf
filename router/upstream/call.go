package upstream

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/dispatch"
	"github.com/snakepit-k8s/snakepit/router/front"
	"github.com/snakepit-k8s/snakepit/router/session"
)

// phase of a call.
type phase uint8

const (
	queued   phase = iota // waits in dispatch
	assigned              // has a slot, nothing was written
	written               // the worker has it
	over
)

// call is one call of a caller. It implements front.Reservation and bridge.Observer.
type call struct {
	pool   *Pool
	ask    *front.Call
	signal chan struct{} // phase may have changed
	wire   *bridge.Call  // of the latest try
	cause  uint16        // of the Cancel to send when the caller goes
	tool   int
	method front.Method
	body   []byte

	// under Pool.mu
	d        dispatch.Call
	phase    phase
	refusal  *dispatch.Refusal
	failure  *front.Failure // how it ended, when that is known already
	link     *link
	answer   front.Answer
	admitted time.Time
	began    time.Time
	late     bool // calls.timeout passed
	released bool // the caller is gone
}

// Admit waits until a worker has a free slot for the call.
func (p *Pool) Admit(ctx context.Context, ask *front.Call) (front.Reservation, error) {
	c, err := p.newCall(ask)
	if err != nil {
		return nil, err
	}
	if err := c.admit(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

func (p *Pool) newCall(ask *front.Call) (*call, error) {
	c := &call{pool: p, ask: ask, signal: make(chan struct{}, 1), cause: bridge.CancelByCaller}
	c.d = dispatch.Call{
		Session: ask.Session, RequestID: ask.RequestID, Owner: c, Deadline: ask.Deadline,
		Affinity: dispatch.Affinity(ask.Affinity), Create: ask.Create, Stream: ask.Stream,
	}
	if ask.Token != "" {
		token, err := session.ParseToken(ask.Token)
		if err != nil {
			return nil, badToken(err.Error())
		}
		if token.Name != ask.Session {
			return nil, badToken("belongs to another session than snakepit-session names")
		}
		c.d.Token = &token
	}
	return c, nil
}

func (c *call) admit(ctx context.Context) error {
	now := c.pool.now()
	c.admitted = now
	c.pool.mu.Lock()
	c.pool.d.Admit(&c.d, now)
	c.pool.unlock()
	err := c.wait(ctx)
	if err == nil {
		c.pool.metrics.waited(c.pool.now().Sub(now))
	}
	return err
}

// assign and refuse are dispatch's word; they run under Pool.mu.
func (c *call) assign(w *dispatch.Worker) {
	c.phase, c.link, c.began = assigned, w.Link.(*link), c.pool.now()
	c.pool.running[c] = struct{}{}
	c.answer = front.Answer{Worker: c.link.name}
	if w.Draining {
		c.answer.EndsAt = w.EndsAt
	}
	if c.d.Life != nil {
		c.answer.SessionState = c.d.State.String()
		c.answer.SessionToken = c.pool.d.Token(&c.d).String()
	}
	c.poke()
}

func (c *call) refuse(r *dispatch.Refusal) {
	c.phase, c.refusal = over, r
	c.poke()
}

func (c *call) poke() {
	select {
	case c.signal <- struct{}{}:
	default:
	}
}

// wait until the call has a slot, or is refused.
func (c *call) wait(ctx context.Context) error {
	var timer *time.Timer
	for {
		c.pool.mu.Lock()
		at, err := c.phase, error(nil)
		if at == over {
			err = c.whyOver()
		}
		c.pool.mu.Unlock()
		if at != queued {
			return err
		}
		if timer == nil {
			timer = time.NewTimer(c.pool.settings.Load().Dispatch.QueueTimeout)
			defer timer.Stop()
		}
		select {
		case <-c.signal:
		case <-timer.C:
			c.pool.mu.Lock()
			c.pool.d.Expire(&c.d, false, c.pool.now())
			c.pool.unlock()
		case <-ctx.Done():
			c.leave()
			return ctx.Err()
		}
	}
}

// leave takes out a call whose caller went while it waited, or had just got its slot.
func (c *call) leave() {
	now := c.pool.now()
	c.pool.mu.Lock()
	c.released = true
	if !c.pool.d.Expire(&c.d, true, now) && c.phase == assigned {
		c.abandon(now)
	}
	c.pool.unlock()
}

// abandon gives a slot back that nothing was written to; under Pool.mu.
func (c *call) abandon(now time.Time) {
	c.phase = over
	delete(c.pool.running, c)
	c.pool.d.Abandon(&c.d, now)
}

// whyOver is the failure of a call that ended without an answer; under Pool.mu.
func (c *call) whyOver() error {
	if c.failure != nil {
		return c.failure
	}
	if c.refusal != nil {
		return c.refused(c.refusal)
	}
	return &front.Failure{Reason: reasonInternal, Message: "the call ended without an answer", Execution: front.MaybeExecuted}
}

// Answer is what the headers of the answer say.
func (c *call) Answer() front.Answer {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	return c.answer
}

// Tool finds a tool of the reserved worker.
func (c *call) Tool(name string) (int, front.Tool, bool) {
	c.pool.mu.Lock()
	var t *toolTable
	if c.link != nil {
		t = c.link.tools
	}
	c.pool.mu.Unlock()
	if t == nil {
		return 0, front.Tool{}, false
	}
	i, ok := t.index[name]
	if !ok {
		return 0, front.Tool{}, false
	}
	return i, t.tools[i], true
}

// Start writes the call to the reserved worker.
func (c *call) Start(ctx context.Context, tool int, method front.Method, request []byte) error {
	c.tool, c.method, c.body = tool, method, request
	return c.start(ctx)
}

func (c *call) start(ctx context.Context) error {
	for {
		r, err := c.begin()
		if err != nil {
			return err
		}
		if c.link.worker.Start(c.wire, r) == nil {
			return nil
		}
		c.unwritten()
		if err := c.wait(ctx); err != nil {
			return err
		}
	}
}

// begin makes the request for the worker that the call was assigned to.
func (c *call) begin() (*bridge.Request, error) {
	p, now := c.pool, c.pool.now()
	s := p.settings.Load()
	r := &bridge.Request{Tool: uint16(c.tool), Info: c.info(), Payload: c.body, MaxMessage: s.MaxMessage, Timeout: s.CallTimeout}
	if !c.ask.Deadline.IsZero() {
		r.Timeout = max(min(r.Timeout, c.ask.Deadline.Sub(now)), time.Microsecond)
	}
	p.mu.Lock()
	defer p.unlock()
	if c.phase != assigned { // the request took too long to arrive
		return nil, c.whyOver()
	}
	if l := c.d.Life; l != nil {
		if l.Ended() { // while the request was read
			c.abandon(now)
			return nil, c.ended(l)
		}
		r.Epoch = l.Epoch()
		if !l.Opened() {
			r.Open = &bridge.Open{Name: l.Name(), Epoch: l.Epoch()}
			l.SetOpened()
		}
	}
	c.wire = bridge.NewCall(c)
	c.phase, c.began = written, now
	return r, nil
}

// unwritten: the worker was not connected any more.
func (c *call) unwritten() {
	c.pool.mu.Lock()
	delete(c.pool.running, c)
	c.phase = queued
	c.pool.d.NotStarted(&c.d, false, c.pool.now())
	c.pool.unlock()
}

// info encodes CallInfo; by hand, because every call has one.
func (c *call) info() []byte {
	b := make([]byte, 0, 64+len(c.ask.RequestID)+len(c.ask.Session))
	b = appendText(b, 1, c.ask.RequestID)
	b = appendText(b, 2, c.ask.Session)
	if c.method == front.ExecuteStream {
		m := appendText(nil, 1, ":method")
		m = appendText(m, 2, "ExecuteStream")
		b = protowire.AppendTag(b, 3, protowire.BytesType)
		b = protowire.AppendBytes(b, m)
	}
	return appendText(b, 4, c.ask.Traceparent)
}

func appendText(b []byte, number protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = protowire.AppendTag(b, number, protowire.BytesType)
	return protowire.AppendString(b, s)
}

// Recv waits for the next message of the answer.
func (c *call) Recv(ctx context.Context) ([]byte, error) {
	for {
		data, end, err := c.wire.Recv(ctx)
		switch {
		case err != nil:
			if errors.Is(err, context.DeadlineExceeded) {
				c.cause = bridge.CancelByDeadline
			}
			return nil, err
		case end == nil:
			return data, nil
		case end.Kind == bridge.NotStarted:
			if err := c.wait(ctx); err != nil {
				return nil, err
			}
			if err := c.start(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if f := c.failed(end); f != nil {
			return nil, f
		}
		return nil, io.EOF
	}
}

// Release ends the caller's interest. A call that still runs is cancelled; its slot is free when its handler has returned.
func (c *call) Release() {
	p := c.pool
	p.mu.Lock()
	c.released = true
	running := c.phase == written
	if c.phase == assigned {
		c.abandon(p.now())
	}
	p.unlock()
	if running {
		c.cancel(c.cause)
	}
}

func (c *call) cancel(cause uint16) {
	if c.wire != nil {
		c.wire.Cancel(cause)
	}
}

// CallAccepted implements bridge.Observer.
func (c *call) CallAccepted() {
	if c.d.Life == nil {
		return
	}
	c.pool.mu.Lock()
	c.pool.d.Accepted(&c.d, c.pool.now())
	c.pool.unlock()
}

// CallEnded implements bridge.Observer: the slot is free, or the call is repeated.
func (c *call) CallEnded(end bridge.End) {
	p := c.pool
	p.mu.Lock()
	now := p.now()
	delete(p.running, c)
	switch {
	case end.Kind == bridge.NotStarted && !c.released:
		c.phase = queued
		p.d.NotStarted(&c.d, true, now)
	case end.Kind == bridge.Finished && end.Outcome == bridge.OutcomeRefusedSession && !c.released:
		if l := c.d.Life; l != nil && !l.Held() {
			p.d.FloorRefused(l.Epoch())
		}
		c.phase = queued
		p.d.NotHeld(&c.d, now)
	case end.Kind == bridge.Finished && end.Outcome == bridge.OutcomeDone || end.Kind == bridge.MaybeExecuted:
		c.phase = over
		p.d.Finished(&c.d, now)
	default:
		c.phase = over
		if end.Outcome == bridge.OutcomeRefusedSessionStart {
			p.d.StartFailed(&c.d, now)
		}
		p.d.Abandon(&c.d, now)
	}
	p.unlock()
}
