package upstream

import (
	"fmt"
	"strings"
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/dispatch"
	"github.com/snakepit-k8s/snakepit/router/session"
)

// WorkerRegistered implements bridge.Handler.
func (p *Pool) WorkerRegistered(w *bridge.Worker, state *bridgev1.WorkerState) {
	now := p.now()
	p.mu.Lock()
	defer p.unlock()
	l, known := w.Attachment.(*link)
	if !known {
		l = &link{worker: w, name: p.workerName(w.ID), began: now}
		l.target = p.d.Started(session.Worker{Slot: w.ID.Slot, Nonce: w.ID.Nonce}, l)
		w.Attachment = l
		p.links[l] = struct{}{}
	}
	if state != nil {
		if state.GetBusy() && !known {
			s := p.settings.Load()
			ran := time.Duration(state.GetBusyMs()) * time.Millisecond
			l.busyBy = now.Add(s.CallTimeout + s.KillAfter - ran)
		}
		held := make([]dispatch.Held, 0, len(state.GetSessions()))
		for _, h := range state.GetSessions() {
			if session.ValidName(h.GetName()) && (!known || p.opened(h.GetEpoch())) {
				held = append(held, dispatch.Held{Name: h.GetName(), Epoch: h.GetEpoch()})
			}
		}
		p.d.Hold(l.target, held, now)
	}
	p.poke()
}

// opened says whether the life was opened by an earlier router: of its own lives this router knows better.
func (p *Pool) opened(epoch uint64) bool { return epoch < uint64(p.started.UnixMicro()) }

// WorkerUp implements bridge.Handler.
func (p *Pool) WorkerUp(w *bridge.Worker) {
	l := w.Attachment.(*link)
	said := w.Declared()
	declared := p.declaredBy(said)
	if p.declared.Swap(declared) != declared {
		p.metrics.declare(declared)
	}
	now := p.now()
	p.mu.Lock()
	l.declared, l.busyBy, p.ready = declared, time.Time{}, true
	if !l.wasUp {
		l.wasUp = true
		p.metrics.startSeconds.Observe(now.Sub(l.began).Seconds())
		p.log.Info("worker ready", append([]any{"worker", l.name, "startMilliseconds", milliseconds(now.Sub(l.began))}, p.replaced(w.ID.Slot, now)...)...)
	}
	p.slots[w.ID.Slot].failing, p.slots[w.ID.Slot].brokeAt = false, time.Time{}
	p.d.Up(l.target, said.Slots, said.Version >= 2, now)
	p.unlock()
	p.poke()
}

// replaced measures from the broken connection of a slot's last process to now; nothing when there was none.
func (p *Pool) replaced(slot uint16, now time.Time) []any {
	broke := p.slots[slot].brokeAt
	if broke.IsZero() {
		return nil
	}
	p.metrics.replaced.Observe(now.Sub(broke).Seconds())
	return []any{"replacedAfterMilliseconds", milliseconds(now.Sub(broke))}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// WorkerDown implements bridge.Handler.
func (p *Pool) WorkerDown(w *bridge.Worker) {
	l := w.Attachment.(*link)
	p.mu.Lock()
	p.slots[w.ID.Slot].brokeAt = p.now()
	p.d.Down(l.target)
	if c := l.opening; c != nil {
		l.opening = nil
		c.leave()
		p.openAgain(c, p.now())
	}
	p.unlock()
	p.poke()
}

// WorkerExited implements bridge.Handler.
func (p *Pool) WorkerExited(w *bridge.Worker, exit *bridgev1.WorkerExited) {
	l := w.Attachment.(*link)
	cause := exit.GetCause()
	if cause == "" {
		cause = session.CauseWorkerGone
	}
	p.mu.Lock()
	if l.killed {
		cause = l.cause
	}
	if cause == "STOPPED" && p.d.Recycled(l.target) {
		cause = session.CauseRecycled
	}
	f := &p.slots[w.ID.Slot]
	switch cause {
	case "STOPPED":
	case session.CauseRecycled: // a wish, and no failure
		f.lastExit = exitOf(cause, exit, p.now())
	default:
		f.restarts++
		f.lastError, f.lastExit = describeExit(exit), exitOf(cause, exit, p.now())
		f.failing = !l.wasUp
	}
	if c := l.opening; c != nil { // its connection is not read to the end any more
		l.opening = nil
		c.leave()
		p.openAgain(c, p.now())
	}
	now := p.now()
	if exit != nil && deadly(cause) {
		for _, c := range l.held {
			c.crashes++
			c.tell("", now)
		}
	}
	p.d.Gone(l.target, clean(cause, 64), now)
	delete(p.links, l)
	sessions := p.d.Facts().Sessions
	p.unlock()
	p.metrics.exits.WithLabelValues(knownCause(cause)).Inc()
	said := []any{"worker", l.name, "cause", cause, "exit", describeExit(exit), "sessions", sessions}
	if lines := lastLines(exit); len(lines) > 0 && deadly(cause) {
		said = append(said, "lastLines", lines)
	}
	p.log.Info("worker ended", said...)
	p.poke()
}

// deadly says that the cause of a worker's end may have been what it ran, and not somebody's wish.
func deadly(cause string) bool {
	switch cause {
	case "STOPPED", session.CauseRecycled, causeCallTimeout:
		return false
	}
	return true
}

// describeExit says cause, type and place, without the exception's message.
func describeExit(e *bridgev1.WorkerExited) string {
	if e == nil {
		return "not listed by the supervisor any more"
	}
	parts := []string{e.GetCause()}
	switch {
	case e.GetSignal() != 0:
		parts = append(parts, fmt.Sprintf("signal %d", e.GetSignal()))
	case e.GetExitCode() != 0:
		parts = append(parts, fmt.Sprintf("exit code %d", e.GetExitCode()))
	}
	if e.GetErrorType() != "" {
		parts = append(parts, e.GetErrorType())
	}
	if e.GetErrorPlace() != "" {
		parts = append(parts, "at "+e.GetErrorPlace())
	}
	return clean(strings.Join(parts, " "), 256)
}

// SupervisorUp implements bridge.Handler: recovery is over.
func (p *Pool) SupervisorUp(state *bridgev1.SupervisorState) {
	p.mu.Lock()
	if p.early {
		p.early = false
		for slot, n := range state.GetRestarts() {
			if slot < dispatch.MaxSlots {
				p.slots[slot].restarts = int(n)
			}
		}
	}
	p.attached = true
	now, settings := p.now(), p.settings.Load()
	p.d.Supervised(now)
	if r := settings.RecycleRequest; r != nil {
		p.d.RecycleWorkers(r.ID, r.Slots, now)
	}
	f := p.d.Facts()
	p.unlock()
	p.log.Info("supervisor connected", "workers", len(state.GetWorkers()), "sessions", f.Sessions)
	p.poke()
}

const (
	// maxLostLives bounds what one message says of lost lives.
	maxLostLives = 1000
	// oldestLossMs is longer than any loss is told.
	oldestLossMs = uint64(48 * time.Hour / time.Millisecond)
)

func lostLife(l *dispatch.Lost) *bridgev1.LostLife {
	return &bridgev1.LostLife{
		Session:     &bridgev1.Session{Name: l.Name, Epoch: l.Loss.Epoch},
		Incarnation: &bridgev1.Incarnation{Slot: uint32(l.Loss.Worker.Slot), Nonce: l.Loss.Worker.Nonce}, Cause: l.Loss.Cause,
	}
}

// Remembered implements bridge.Handler: what an earlier router told lost is told by this one too.
func (p *Pool) Remembered(lives []*bridgev1.LostLife) {
	lost := make([]dispatch.Lost, 0, len(lives))
	for _, l := range lives {
		name, id := l.GetSession().GetName(), l.GetIncarnation()
		if !session.ValidName(name) || id.GetSlot() >= dispatch.MaxSlots {
			continue
		}
		lost = append(lost, dispatch.Lost{
			Name: name, BegunAgain: l.GetBegunAgain(), Age: time.Duration(min(l.GetAgeMs(), oldestLossMs)) * time.Millisecond,
			Loss: session.Loss{Worker: session.Worker{Slot: uint16(id.GetSlot()), Nonce: id.GetNonce()}, Epoch: l.GetSession().GetEpoch(), Cause: clean(l.GetCause(), 64)},
		})
	}
	p.mu.Lock()
	defer p.unlock()
	p.d.Remember(lost, p.now())
}

// SupervisorDown implements bridge.Handler. Workers go on.
func (p *Pool) SupervisorDown() {
	p.mu.Lock()
	p.attached = false
	p.mu.Unlock()
	p.log.Info("supervisor's connection ended; workers go on")
	p.poke()
}

// Adapter implements bridge.Handler.
func (p *Pool) Adapter(state *bridgev1.AdapterState) {
	p.mu.Lock()
	p.adapter = state
	blocked := ""
	if state.GetPhase() == bridgev1.AdapterPhase_ADAPTER_PHASE_FAILED {
		blocked = "the adapter does not load: " + errorAt(state.GetErrorType(), state.GetErrorPlace())
	}
	p.d.SetBlocked(blocked, p.now())
	p.unlock()
	p.log.Info("adapter", "phase", state.GetPhase().String(), "error", errorAt(state.GetErrorType(), state.GetErrorPlace()), "forkUnsafe", state.GetForkUnsafe())
	p.poke()
}

func errorAt(kind, place string) string {
	if kind == "" {
		return ""
	}
	if place == "" {
		return clean(kind, 128)
	}
	return clean(kind+" at "+place, 256)
}

// DrainRequested implements bridge.Handler: the container got SIGTERM. The supervisor ends what is left 10 s, or a quarter, before its deadline;
// calls and sessions have drain.timeout, where one is set.
func (p *Pool) DrainRequested(left time.Duration) {
	left -= min(10*time.Second, left/4) + 100*time.Millisecond
	if limit := p.settings.Load().Dispatch.DrainTimeout; limit > 0 {
		left = min(left, limit)
	}
	p.Drain(p.now().Add(left))
	p.poke()
}

// SessionChanged implements bridge.Handler: what an earlier router had asked for and the worker did later.
func (p *Pool) SessionChanged(w *bridge.Worker, change *bridgev1.SessionChanged) {
	l := w.Attachment.(*link)
	h := dispatch.Held{Name: change.GetSession().GetName(), Epoch: change.GetSession().GetEpoch()}
	now := p.now()
	p.mu.Lock()
	defer p.unlock()
	switch {
	case change.GetClosed():
		p.d.Dropped(l.target, h, now)
	case session.ValidName(h.Name) && p.opened(h.Epoch):
		p.d.Hold(l.target, []dispatch.Held{h}, now)
	}
}

// Note implements bridge.Handler.
func (p *Pool) Note(text string, err error) { p.log.Info(text, "why", err.Error()) }

// clean bounds text from workers and strips what is not printable.
func clean(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\ufffd' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}
