package upstream

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/dispatch"
	"github.com/snakepit-k8s/snakepit/router/front"
	"github.com/snakepit-k8s/snakepit/router/session"
)

// Reasons beside those of the front, for what should not happen.
const (
	reasonInternal = front.ReasonInternal
)

func badToken(why string) *front.Failure {
	return &front.Failure{
		Reason: front.ReasonArgumentInvalid, Message: "snakepit-session-token: " + why,
		Violations: []front.Violation{{Field: "snakepit-session-token", Description: why}},
	}
}

// refused words dispatch's refusal for the caller.
func (c *call) refused(r *dispatch.Refusal) *front.Failure {
	f := &front.Failure{Wait: r.Wait, Info: map[string]string{}}
	name := c.d.Session
	switch r.Reason {
	case dispatch.QueueFull:
		f.Reason = front.ReasonQueueFull
		f.Message = fmt.Sprintf("%d calls wait already (queue.maxLength)", r.Limit)
		if r.InSession {
			f.Message = fmt.Sprintf("%d calls of session %s wait already (queue.perSession)", r.Limit, name)
		}
		f.Info["limit"] = strconv.Itoa(r.Limit)
	case dispatch.QueueTimeout:
		f.Reason = front.ReasonQueueTimeout
		f.Message = fmt.Sprintf("no worker became free within queue.timeout of %s", c.pool.settings.Load().Dispatch.QueueTimeout)
	case dispatch.DeadlinePassed:
		f.Code, f.Reason, f.Message = codes.DeadlineExceeded, front.ReasonQueueTimeout, "the caller's deadline passed while the call waited for a worker"
	case dispatch.DeadlineUnreachable:
		f.Reason = front.ReasonDeadlineUnreachable
		f.Message = "the queue is longer than the caller's deadline allows; about " + r.Wait.Round(time.Millisecond).String() + " ahead"
	case dispatch.NoReadyWorker:
		f.Reason, f.Message = front.ReasonNoReadyWorker, "no worker is ready yet"
		if r.Detail != "" {
			f.Message = "no worker is ready: " + r.Detail
		}
	case dispatch.WorkerBusy:
		f.Reason, f.Message = front.ReasonWorkerBusy, "the worker of session "+name+" is busy"
		if r.BlockedBy != "" {
			f.Info["blocked_by"] = r.BlockedBy
		}
	case dispatch.Draining:
		f.Reason, f.Message = front.ReasonDraining, "this router is draining; repeat the call to reach another one"
	case dispatch.Recovering:
		f.Reason, f.Message = front.ReasonRecovering, "this router has just started and does not know its sessions yet"
	case dispatch.WorkerDied:
		f.Reason, f.Message = front.ReasonWorkerDied, "workers ended before they began the call"
		f.Answer = c.answer
	default:
		c.sessionRefused(f, r)
	}
	return f
}

func (c *call) sessionRefused(f *front.Failure, r *dispatch.Refusal) {
	name := c.d.Session
	switch r.Reason {
	case dispatch.SessionLost:
		c.pool.lostFailure(f, name, r.Loss)
	case dispatch.SessionExpired:
		f.Reason = front.ReasonSessionExpired
		f.Message = "session " + name + " has ended: closed, idle, or moved; start it again with snakepit-session-create: true"
		if c.d.Token != nil {
			f.Info["epoch"] = strconv.FormatUint(c.d.Token.Epoch, 10)
		}
	default:
		f.Reason = front.ReasonSessionUnknown
		f.Message = "no session " + name + " here; start it with snakepit-session-create: true or OpenSession"
	}
}

func (p *Pool) lostFailure(f *front.Failure, name string, loss session.Loss) {
	f.Reason = front.ReasonSessionLost
	worker := p.workerName(bridge.Incarnation{Slot: loss.Worker.Slot, Nonce: loss.Worker.Nonce})
	f.Message = fmt.Sprintf("session %s was lost with its worker (%s); start it again with snakepit-session-create: true", name, loss.Cause)
	f.Info["worker"], f.Info["cause"] = worker, loss.Cause
	f.Info["epoch"] = strconv.FormatUint(loss.Epoch, 10)
	f.Info["token"] = session.Token{Pod: loss.Pod, Worker: loss.Worker, Epoch: loss.Epoch, Name: name}.String()
}

// ended words the end of a life while its call was about to start; under Pool.mu.
func (c *call) ended(l *session.Life) *front.Failure {
	r := &dispatch.Refusal{Reason: dispatch.SessionExpired}
	if l.Lost() {
		r = &dispatch.Refusal{Reason: dispatch.SessionLost, Loss: session.Loss{
			Pod: c.pool.config.PodUID, Worker: c.d.Worker.ID, Epoch: l.Epoch(), Cause: session.CauseWorkerGone}}
	}
	return c.refused(r)
}

// failed words the end of a call that was written; nil for a good one.
func (c *call) failed(end *bridge.End) *front.Failure {
	c.pool.mu.Lock()
	late, killed, answer := c.late, c.link.killed, c.answer
	over := c.phase == over
	var why error
	if end.Kind == bridge.Finished && end.Outcome == bridge.OutcomeRefusedSession && over {
		why = c.whyOver()
	}
	c.pool.mu.Unlock()
	switch end.Kind {
	case bridge.MaybeExecuted:
		if killed {
			return c.timedOut(answer)
		}
		return &front.Failure{
			Reason: front.ReasonWorkerDied, Execution: front.MaybeExecuted, Answer: answer, Info: workerInfo(answer),
			Message: "worker " + answer.Worker + " ended while it ran the call",
		}
	case bridge.TooLarge:
		limit := c.pool.MaxMessageBytes()
		return &front.Failure{
			Reason: front.ReasonMessageTooLarge, Execution: front.MaybeExecuted, Answer: answer,
			Message: fmt.Sprintf("the answer has more than the %d bytes that calls.maxMessageBytes allows", limit),
			Info:    map[string]string{"limit": strconv.FormatInt(limit, 10), "size": strconv.Itoa(end.Size)},
		}
	case bridge.Violation:
		return &front.Failure{
			Reason: reasonInternal, Execution: front.MaybeExecuted, Answer: answer, Message: "worker " + answer.Worker + " sent a frame that this router does not know",
		}
	}
	if f := (*front.Failure)(nil); errors.As(why, &f) {
		return f
	}
	return c.finished(end, late, answer)
}

func workerInfo(a front.Answer) map[string]string {
	info := map[string]string{"worker": a.Worker}
	if a.SessionToken != "" {
		info["token"] = a.SessionToken
	}
	return info
}

func (c *call) timedOut(a front.Answer) *front.Failure {
	return &front.Failure{
		Reason: front.ReasonCallTimeout, Execution: front.MaybeExecuted, Answer: a, Info: workerInfo(a),
		Message: fmt.Sprintf("the call ran longer than calls.timeout of %s", c.pool.settings.Load().CallTimeout),
	}
}

// finished words a Finish.
func (c *call) finished(end *bridge.End, late bool, a front.Answer) *front.Failure {
	code := codes.Code(end.Code)
	switch end.Outcome {
	case bridge.OutcomeDone:
		if code == codes.OK {
			return nil
		}
		if late && (code == codes.Canceled || code == codes.DeadlineExceeded) {
			return c.timedOut(a)
		}
	case bridge.OutcomeRefusedTool:
		return &front.Failure{Reason: front.ReasonToolUnknown, Answer: a, Message: "worker " + a.Worker + " does not know the tool"}
	case bridge.OutcomeRefusedDeadline:
		return &front.Failure{Code: codes.DeadlineExceeded, Reason: front.ReasonQueueTimeout, Answer: a, Message: "the deadline passed before the worker began the call"}
	case bridge.OutcomeRefusedCancelled:
		return &front.Failure{Code: codes.Canceled, Reason: reasonCancelled, Answer: a, Message: "the call was cancelled before the worker began it"}
	}
	return adapterFailure(code, end.Info, a)
}

const reasonCancelled = front.ReasonCancelled

// adapterFailure passes on what the adapter, or its runtime, said.
func adapterFailure(code codes.Code, info *bridgev1.FinishInfo, a front.Answer) *front.Failure {
	if code == codes.OK || code > codes.Unauthenticated {
		code = codes.Unknown
	}
	f := &front.Failure{
		Code: code, Reason: front.Reason(info.GetReason()), Message: info.GetMessage(), Execution: front.Failed, Answer: a,
		Info: info.GetInfo(), Traceback: info.GetTraceback(),
	}
	switch f.Reason {
	case "":
		f.Reason = front.ReasonAdapterException
	case front.ReasonArgumentInvalid: // by the check of the type hints, before user code ran
		f.Execution = front.NotStarted
	}
	for _, v := range info.GetViolations() {
		f.Violations = append(f.Violations, front.Violation{Field: v.GetField(), Description: v.GetDescription()})
	}
	for _, t := range info.GetTrailers() {
		if f.Trailers == nil {
			f.Trailers = metadata.MD{}
		}
		f.Trailers.Append(t.GetKey(), string(t.GetValue()))
	}
	return f
}
