package upstream

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/dispatch"
	"github.com/snakepit-k8s/snakepit/router/front"
	"github.com/snakepit-k8s/snakepit/router/seeded"
	"github.com/snakepit-k8s/snakepit/router/session"
)

// phase of a call.
type phase = uint32

const (
	queued   phase = iota // waits in dispatch
	assigned              // has a slot, nothing was written
	written               // the worker has it
	opened                // OpenSession: its life is open
	over                  // ended, and its wire knows how
	refused               // ended, and refusal or failure says how
)

// call is one call of a caller. It implements front.Exchange and bridge.Observer.
type call struct {
	pool   *Pool
	ask    *front.Call
	wake   chan struct{} // phase may have changed, or the wire has something
	wire   bridge.Call   // of the latest try
	info   []byte        // CallInfo, encoded; begins in room
	room   [192]byte
	pieces [][]byte // of the request, where it is one message
	piece  [1][]byte
	size   int
	sum    string // stands for the pieces once they are consumed
	cause  uint16 // of the Cancel to send when the caller goes

	at     atomic.Uint32 // phase; written under Pool.mu
	rest   atomic.Bool   // the request has more than its first frame: SendRest is due
	active atomic.Int64  // Pool.clock when a message passed last; of streams
	// doubtful: its worker's connection broke while it may have run
	doubtful atomic.Bool

	// under Pool.mu
	d          dispatch.Call
	prev, next *call // in Pool.waiting or Pool.running
	in         *calls
	refusal    *dispatch.Refusal
	failure    *front.Failure
	link       *link
	answer     front.Answer // constant while the wire has something to say
	since      time.Time    // of the phase
	ready      bool         // whoever frees a slot writes it
	ahead      bool         // was sent behind another call
	late       bool         // calls.timeout passed
	idle       bool         // calls.streamIdleTimeout passed
	released   bool         // the caller is gone
	survived   bool         // its worker finished it; constant once the call is over
	crashes    int          // workers that died holding it, not told to the quarantine
	key        string       // by which the quarantine knows it, once that is needed
}

// Admit implements front.Pool.
func (p *Pool) Admit(ask *front.Call) (front.Exchange, error) {
	c, err := p.newCall(ask)
	if err != nil {
		return nil, err
	}
	c.prepare()
	c.ready = ask.Ready
	if ask.Ready {
		if err := c.quarantined(); err != nil {
			return nil, err
		}
	}
	c.admit()
	return c, nil
}

func (p *Pool) newCall(ask *front.Call) (*call, error) {
	c := &call{pool: p, ask: ask, wake: make(chan struct{}, 1), cause: bridge.CancelByCaller}
	c.d = dispatch.Call{
		Session: ask.Session, RequestID: ask.RequestID, Owner: c, Deadline: ask.Deadline, Tenant: ask.Tenant,
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

// prepare encodes what does not change from try to try, and looks at the request.
func (c *call) prepare() {
	c.info = c.appendInfo(c.room[:0])
	if c.ask.ClientStream {
		c.wire.Expect()
	}
	c.pieces, c.size = c.piece[:0], 0
	for _, b := range c.ask.Request {
		if data := b.ReadOnlyData(); len(data) > 0 {
			c.pieces = append(c.pieces, data)
			c.size += len(data)
		}
	}
}

// describe tells dispatch what is known of the call by now; under Pool.mu.
func (c *call) describe() {
	c.d.Stream = c.ask.Stream
	c.d.NoPrefetch = !c.ask.Ready || c.ask.ClientStream || c.size > bridge.MaxQueued
	c.pool.d.Aim(&c.d, c.ask.Target)
}

func (c *call) admit() {
	now := c.pool.now()
	c.pool.mu.Lock()
	c.describe()
	c.wait(now)
	c.pool.d.Admit(&c.d, now)
	c.pool.unlock()
}

// wait puts the call into the queue, as far as this package is concerned; under Pool.mu.
func (c *call) wait(now time.Time) {
	c.since = now
	c.pool.waiting.push(c)
	c.at.Store(queued)
}

// assign and refuse are dispatch's word; they run under Pool.mu.
func (c *call) assign(w *dispatch.Worker, now time.Time) {
	p := c.pool
	c.link, c.ahead = w.Link.(*link), c.d.Prefetched
	p.metrics.queueSeconds.Observe(now.Sub(c.since).Seconds())
	c.since = now
	p.running.push(c)
	c.answer = front.Answer{Worker: c.link.name}
	if w.Draining {
		c.answer.EndsAt = w.EndsAt
	}
	if c.d.Life != nil {
		c.answer.SessionState = c.d.State.String()
		token := p.d.Token(&c.d)
		if c.d.Token != nil && *c.d.Token == token {
			c.answer.SessionToken = c.ask.Token // one life has one text
		} else {
			c.answer.SessionToken = token.String()
		}
	}
	c.at.Store(assigned)
	if c.ready {
		c.begin(now)
		return
	}
	c.poke()
}

func (c *call) refuse(r *dispatch.Refusal) {
	c.refusal = r
	c.fail()
}

// fail ends a call that refusal or failure says all of; under Pool.mu.
func (c *call) fail() {
	c.leave()
	c.at.Store(refused)
	c.wire.Stop()
	c.poke()
}

func (c *call) leave() {
	if c.in != nil {
		c.in.remove(c)
	}
}

func (c *call) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// begin queues the call to the worker that it was assigned to; under Pool.mu.
func (c *call) begin(now time.Time) {
	p, s := c.pool, c.pool.settings.Load()
	if unread := c.ask.Unread; unread != nil {
		if c.failure = unread.Full(); c.failure != nil {
			c.failure.Answer = c.answer
			c.abandon(now)
			return
		}
	}
	number, _, ok := c.link.declared.Number(c.ask.Target, c.ask.Way)
	if !ok {
		c.failure = c.undeclared()
		c.abandon(now)
		return
	}
	r := bridge.Request{Tool: uint16(number), Info: c.info, Payload: c.pieces, Size: c.size, MaxMessage: s.MaxMessage,
		Timeout: c.limit(s), Stream: c.ask.ClientStream}
	if !c.ask.Deadline.IsZero() {
		r.Timeout = max(min(r.Timeout, c.ask.Deadline.Sub(now)), time.Microsecond)
	}
	if l := c.d.Life; l != nil {
		if l.Ended() { // while the request was read
			c.failure = c.ended(l)
			c.abandon(now)
			return
		}
		r.Epoch = l.Epoch()
		if !l.Opened() {
			r.Open, r.Name = true, l.Name()
			l.SetOpened()
		}
	}
	c.wire.Init(c, c.wake)
	if c.link.worker.Queue(&c.wire, &r) != nil {
		p.d.Down(c.link.target) // this comes as an event, too
		if l := c.d.Life; l != nil && r.Open {
			l.ClearOpened()
		}
		c.leave()
		c.wait(now)
		p.d.Recalled(&c.d, now)
		return
	}
	c.at.Store(written)
	c.active.Store(now.UnixNano())
	if c.size > bridge.MaxQueued && !r.Stream {
		c.rest.Store(true)
		c.poke()
	}
	p.toFlush(c.link.worker)
}

func (c *call) limit(s *Settings) time.Duration {
	if c.ask.Stream {
		return s.StreamTimeout
	}
	return s.CallTimeout
}

// abandon gives back a slot that nothing was written to, of a call that has failed; under Pool.mu.
func (c *call) abandon(now time.Time) {
	c.fail()
	c.pool.d.Abandon(&c.d, now)
}

// CallAccepted implements bridge.Observer.
func (c *call) CallAccepted() {
	if c.size > bridge.MaxQueued {
		c.poke() // the request may be consumed
	}
	if c.d.Life == nil && !c.ahead {
		return // dispatch has the time at which the slot became the call's own
	}
	c.pool.mu.Lock()
	c.pool.d.Accepted(&c.d, c.pool.now())
	c.pool.unlock()
}

// CallEnded implements bridge.Observer: the slot is free, or the call is repeated.
func (c *call) CallEnded(end bridge.End) (again bool) {
	p := c.pool
	p.mu.Lock()
	now := p.now()
	c.leave()
	switch {
	case end.Kind == bridge.Recalled && !c.released && !c.late:
		again = true
		c.wait(now)
		p.d.Recalled(&c.d, now)
	case end.Kind == bridge.NotStarted && !c.released && !c.late:
		again = true
		c.wait(now)
		p.d.NotStarted(&c.d, true, now)
	case end.Kind == bridge.Finished && end.Outcome == bridge.OutcomeRefusedSession && !c.released:
		again = true
		if l := c.d.Life; l != nil && !l.Held() {
			p.d.FloorRefused(l.Epoch())
		}
		c.wait(now)
		p.d.NotHeld(&c.d, now)
	case end.Kind == bridge.MaybeExecuted:
		again = c.brokeOff(now)
	case end.Kind == bridge.Finished && end.Outcome == bridge.OutcomeDone:
		c.survived = true
		c.at.Store(over)
		p.d.Finished(&c.d, now)
	default:
		c.at.Store(over)
		if end.Outcome == bridge.OutcomeRefusedSessionStart {
			p.d.StartFailed(&c.d, now)
		}
		p.d.Abandon(&c.d, now)
	}
	p.unlock()
	return again
}

// brokeOff: the link broke while the call may have run. It is repeated where caller and adapter say that this does no harm and nothing of an answer
// was passed on; under Pool.mu.
func (c *call) brokeOff(now time.Time) (again bool) {
	p := c.pool
	c.doubtful.Store(true)
	c.link.held = append(c.link.held, c)
	_, idempotent, _ := c.link.declared.Number(c.ask.Target, c.ask.Way)
	may := idempotent && c.ask.Idempotent || seeded.RepeatAccepted
	if may && !c.released && !c.late && !c.ask.ClientStream && !c.link.killed && c.wire.Untouched() {
		c.wait(now)
		if p.d.Retry(&c.d, now) {
			return true
		}
		c.leave()
	}
	c.at.Store(over)
	p.d.Finished(&c.d, now)
	return false
}

// Release ends the caller's interest. A call that still runs is cancelled; its slot is free when its handler has returned.
func (c *call) Release() {
	p := c.pool
	key := ""
	switch c.at.Load() {
	case written:
		key = c.requestKey() // while the request is there: it may yet end its worker
	case over:
		if !c.doubtful.Load() {
			c.absolve() // nothing else is left to be done
			return
		}
		key = c.requestKey()
	case refused:
		return
	}
	now := p.now()
	p.mu.Lock()
	c.released = true
	running := false
	switch c.at.Load() {
	case queued:
		if !p.d.Expire(&c.d, true, now) { // it opens a session, or was expired just now
			c.leave()
		}
	case assigned:
		c.abandon(now)
	case written:
		running = true
	}
	c.tell(key, now)
	p.unlock()
	if running {
		c.wire.Cancel(c.cause)
	}
}

// Answer is what the headers of the answer say.
func (c *call) Answer() *front.Answer { return &c.answer }

// await waits until the call has a slot, or is refused, or its session is open.
func (c *call) await(ctx context.Context) error {
	for {
		switch c.at.Load() {
		case queued:
		case refused:
			return c.whyRefused()
		default:
			return nil
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// whyRefused words the refusal or failure that ended the call.
func (c *call) whyRefused() error {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	if c.failure != nil {
		return c.failure
	}
	return c.refused(c.refusal)
}
