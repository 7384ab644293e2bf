package upstream

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/dispatch"
	"github.com/snakepit-k8s/snakepit/router/front"
)

// OpenSession starts the life of a session and waits until session_start has ended, or joins the life that is there.
func (p *Pool) OpenSession(ctx context.Context, ask *front.Call) (front.Session, error) {
	c, err := p.newCall(ask)
	if err != nil {
		return front.Session{}, err
	}
	c.d.Open, c.d.Create = true, true
	p.mu.Lock()
	view, ok := p.d.Joinable(&c.d, p.now())
	if ok {
		s := p.describe(view)
		p.unlock()
		s.Answer.SessionState = dispatch.StateBound.String()
		return s, nil
	}
	p.unlock()
	c.admit()
	for {
		if err := c.await(ctx); err != nil {
			c.Release()
			return front.Session{}, err
		}
		if s, done := c.opened(); done {
			return s, nil
		}
		done, s, err := c.open()
		if done || err != nil {
			return s, err
		}
	}
}

// open writes SessionOpen on the slot that the call has. done: the life was open already.
func (c *call) open() (done bool, s front.Session, err error) {
	p, now := c.pool, c.pool.now()
	p.mu.Lock()
	l := c.d.Life
	if c.at.Load() != assigned { // it was refused meanwhile, or has another worker
		p.unlock()
		return false, front.Session{}, nil
	}
	if l.Ended() {
		err := c.ended(l)
		c.failure = err
		c.abandon(now)
		p.unlock()
		return true, front.Session{}, err
	}
	if l.Opened() && l.Held() {
		s := c.life()
		c.leave()
		c.at.Store(over)
		p.d.Finished(&c.d, now)
		p.unlock()
		return true, s, nil
	}
	l.SetOpened()
	epoch, link := l.Epoch(), c.link
	link.opening = c
	c.since = now
	c.at.Store(queued) // await goes on until SessionOpened
	p.unlock()
	if link.worker.OpenSession(l.Name(), epoch) != nil {
		p.mu.Lock()
		if link.opening == c {
			link.opening = nil
			c.leave()
			p.openAgain(c, now)
		}
		p.unlock()
	}
	return false, front.Session{}, nil
}

// opened reports the session once SessionOpened came.
func (c *call) opened() (front.Session, bool) {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	return c.life(), c.at.Load() == opened
}

// life describes the session of a call that holds its slot; under Pool.mu.
func (c *call) life() front.Session {
	return front.Session{Name: c.d.Session, Epoch: c.epoch(), Answer: c.answer}
}

func (c *call) epoch() uint64 {
	if c.d.Life == nil {
		return 0
	}
	return c.d.Life.Epoch()
}

// SessionOpened implements bridge.Handler: it ends an OpenSession. For calls their own frames tell the same.
func (p *Pool) SessionOpened(w *bridge.Worker, epoch uint64, status uint16, end *bridgev1.SessionEnd) {
	l := w.Attachment.(*link)
	now := p.now()
	p.mu.Lock()
	defer p.unlock()
	c := l.opening
	if c == nil || c.epoch() != epoch {
		return
	}
	l.opening = nil
	c.leave()
	switch status {
	case bridge.OpenedOK:
		c.d.Life.SetHeld()
		c.at.Store(opened)
		p.d.Finished(&c.d, now)
	case bridge.OpenedFloor:
		p.d.FloorRefused(epoch)
		p.openAgain(c, now)
	default:
		c.failure = &front.Failure{
			Code: codes.Unknown, Reason: front.ReasonAdapterException, Execution: front.Failed, Answer: front.Answer{Worker: l.name},
			Message: "session_start raised " + end.GetErrorType() + ": " + end.GetErrorMessage(),
			Info:    map[string]string{"type": end.GetErrorType()}, Traceback: end.GetTraceback(),
		}
		p.d.StartFailed(&c.d, now)
		c.abandon(now)
	}
	c.poke()
}

// openAgain repeats an OpenSession that held nothing, unless its caller has gone; under Pool.mu.
func (p *Pool) openAgain(c *call, now time.Time) {
	if c.released {
		p.d.StartFailed(&c.d, now)
		p.d.Abandon(&c.d, now)
		return
	}
	c.wait(now)
	p.d.NotHeld(&c.d, now)
}

// SessionClosed implements bridge.Handler. The life is out of the table already.
func (p *Pool) SessionClosed(w *bridge.Worker, epoch uint64, status uint16, end *bridgev1.SessionEnd) {
	if status == 1 {
		p.log.Info("session_end raised; the session has ended all the same",
			"worker", w.Attachment.(*link).name, "epoch", epoch, "type", end.GetErrorType())
	}
}

// CloseSession ends a life; false when there was none.
func (p *Pool) CloseSession(_ context.Context, ask *front.Call) (bool, error) {
	c, err := p.newCall(ask)
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.unlock()
	closed, refusal := p.d.Close(&c.d, p.now())
	if refusal != nil {
		return false, c.refused(refusal)
	}
	return closed, nil
}

// GetSession says what is known of a life.
func (p *Pool) GetSession(ask *front.Call) (front.Session, error) {
	c, err := p.newCall(ask)
	if err != nil {
		return front.Session{}, err
	}
	p.mu.Lock()
	defer p.unlock()
	view, refusal := p.d.Look(&c.d, p.now())
	if refusal != nil {
		return front.Session{}, c.refused(refusal)
	}
	return p.describe(view), nil
}

// describe a life; under Pool.mu.
func (p *Pool) describe(v dispatch.View) front.Session {
	s := front.Session{Name: v.Life.Name(), Epoch: v.Life.Epoch(), Pending: v.Life.Pending()}
	s.Answer.SessionState = dispatch.StateBound.String()
	if v.Worker == nil {
		s.Answer.SessionState = dispatch.StateNew.String()
		return s
	}
	s.Answer.Worker, s.Answer.SessionToken = v.Worker.Link.(*link).name, v.Token.String()
	if v.Worker.Draining {
		s.Answer.EndsAt = v.Worker.EndsAt
	}
	return s
}
