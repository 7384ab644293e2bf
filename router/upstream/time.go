package upstream

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"reflect"
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/dispatch"
	"github.com/snakepit-k8s/snakepit/router/front"
)

// Tick does what time asks for; call it every 100 ms or so.
func (p *Pool) Tick() {
	now := p.now()
	p.clock.Store(now.UnixNano())
	s := p.settings.Load()
	p.mu.Lock()
	if p.early && now.Sub(p.started) > s.StartupTimeout {
		p.early = false
		p.d.Recovered()
		p.log.Info("no supervisor within the startup time; sessions of an earlier router are taken as ended")
	}
	p.d.Tick(now)
	p.quarantine.Expire(now)
	p.suspects.Store(int64(p.quarantine.Len()))
	for c := p.waiting.head; c != nil && now.Sub(c.since) >= s.Dispatch.QueueTimeout; c = c.next {
		p.d.Expire(&c.d, false, now)
	}
	late, kills := p.overdue(s, now)
	p.unlock()
	for _, w := range late {
		w.Cancel(bridge.CancelByDeadline)
	}
	for _, l := range kills {
		p.log.Info("killing a worker whose call is stuck", "worker", l.name, "limit", s.CallTimeout+s.KillAfter)
		p.kill(l, causeCallTimeout)
	}
}

// overdue finds the calls that ran too long: first they are cancelled, then their worker is killed; under Pool.mu.
func (p *Pool) overdue(s *Settings, now time.Time) (late []*bridge.Call, kills []*link) {
	for c := p.running.head; c != nil; {
		next := c.next
		if c.at.Load() == assigned {
			c.expectRequest(now)
			c = next
			continue
		}
		over := now.Sub(c.since) - c.limit(s)
		if idle := now.Sub(time.Unix(0, c.active.Load())); c.ask.Stream && s.StreamIdleTimeout > 0 && idle >= s.StreamIdleTimeout {
			c.idle = c.idle || over < 0
			over = max(over, idle-s.StreamIdleTimeout)
		}
		if over >= 0 && !c.late {
			c.late = true
			late = append(late, &c.wire)
		}
		if over >= s.KillAfter && !c.link.killed && !c.d.Prefetched {
			c.link.killed, c.link.cause = true, causeCallTimeout
			kills = append(kills, c.link)
		}
		c = next
	}
	for l := range p.links {
		if !l.busyBy.IsZero() && now.After(l.busyBy) && !l.killed && l.target.State != dispatch.Ready {
			l.killed, l.cause = true, causeCallTimeout
			kills = append(kills, l)
		}
	}
	return late, kills
}

func (p *Pool) kill(l *link, cause string) {
	if !p.server.Kill(l.worker, cause, true) {
		p.mu.Lock()
		l.killed = false // no supervisor: tried again
		p.mu.Unlock()
	}
}

// WorkerStuck implements bridge.Handler.
func (p *Pool) WorkerStuck(w *bridge.Worker) {
	l := w.Attachment.(*link)
	p.mu.Lock()
	known := l.killed
	l.killed, l.cause = true, causeStuck
	p.mu.Unlock()
	if known {
		return
	}
	p.log.Info("killing a worker that is silent and uses no CPU time", "worker", l.name)
	p.kill(l, causeStuck)
}

// Used implements bridge.Handler.
func (p *Pool) Used(w *bridge.Worker, privateBytes uint64) {
	p.mu.Lock()
	p.d.Usage(w.Attachment.(*link).target, privateBytes, p.now())
	p.unlock()
}

// expectRequest gives the slot to others when the caller does not send its message; under Pool.mu.
func (c *call) expectRequest(now time.Time) {
	if now.Sub(c.since) < front.RequestTimeout {
		return
	}
	c.failure = front.LateRequest()
	c.abandon(now)
}

// Causes of a Kill.
const (
	causeCallTimeout = "CALL_TIMEOUT"
	causeStuck       = "STUCK"
)

func (p *Pool) workerName(id bridge.Incarnation) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], id.Nonce)
	return fmt.Sprintf("%s/%d/%s", p.config.PodName, id.Slot, hex.EncodeToString(b[:]))
}

// declaredBy turns what a worker said into what the front offers; the same object as before when it says the same.
func (p *Pool) declaredBy(said bridge.Declared) *front.Declared {
	tools := make([]front.Tool, 0, len(said.Tools))
	for _, d := range said.Tools {
		tools = append(tools, front.Tool{
			Name: d.GetName(), Description: d.GetDescription(), ParametersSchema: d.GetParametersSchema(),
			Streaming: d.GetKind() == bridgev1.ToolKind_TOOL_KIND_STREAM, Idempotent: d.GetIdempotent(),
		})
	}
	methods := make([]front.Method, 0, len(said.Methods))
	for _, m := range said.Methods {
		methods = append(methods, front.Method{
			Path: m.GetPath(), ClientStream: m.GetClientStreaming(), ServerStream: m.GetServerStreaming(), Idempotent: m.GetIdempotent(),
		})
	}
	fresh := front.NewDeclared(tools, methods, said.Files)
	if known := p.declared.Load(); known != nil && reflect.DeepEqual(known, fresh) {
		return known
	}
	return fresh
}

// calls is a list of calls in the order in which they came to it.
type calls struct {
	head, tail *call
}

func (l *calls) push(c *call) {
	if c.in != nil {
		c.in.remove(c)
	}
	c.in, c.prev, c.next = l, l.tail, nil
	if l.tail != nil {
		l.tail.next = c
	} else {
		l.head = c
	}
	l.tail = c
}

func (l *calls) remove(c *call) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.head = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.tail = c.prev
	}
	c.in, c.prev, c.next = nil, nil, nil
}
