package upstream

import (
	"fmt"
	"hash/maphash"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/dispatch"
	"github.com/snakepit-k8s/snakepit/router/front"
	"github.com/snakepit-k8s/snakepit/router/session"
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

// undeclared words a target that the reserved worker does not offer, though another one did; under Pool.mu.
func (c *call) undeclared() *front.Failure {
	f := &front.Failure{Reason: front.ReasonToolUnknown, Answer: c.answer, Message: "worker " + c.answer.Worker + " does not know the tool"}
	if c.ask.Way == front.Direct {
		f.Reason, f.Message = front.ReasonMethodUnknown, "worker "+c.answer.Worker+" does not serve the method"
	}
	return f
}

// failed words the end of a call that was written; nil for a good one.
func (c *call) failed(end *bridge.End) *front.Failure {
	if end.Kind == bridge.Finished && end.Outcome == bridge.OutcomeDone && codes.Code(end.Code) == codes.OK {
		return nil
	}
	c.pool.mu.Lock()
	late, killed, answer := c.late, c.link.killed, c.answer
	c.pool.mu.Unlock()
	switch end.Kind {
	case bridge.MaybeExecuted:
		if killed && late {
			return c.timedOut(answer)
		}
		return &front.Failure{
			Reason: front.ReasonWorkerDied, Execution: front.MaybeExecuted, Answer: answer, Info: workerInfo(answer),
			Message: "worker " + answer.Worker + " ended while it ran the call",
		}
	case bridge.NotStarted, bridge.Recalled:
		if late {
			return c.timedOut(answer)
		}
		return &front.Failure{Reason: front.ReasonWorkerDied, Answer: answer, Info: workerInfo(answer), Message: "worker " + answer.Worker + " ended before it began the call"}
	case bridge.TooLarge:
		limit := c.pool.MaxMessageBytes()
		return &front.Failure{
			Reason: front.ReasonMessageTooLarge, Execution: front.MaybeExecuted, Answer: answer,
			Message: fmt.Sprintf("the answer has more than the %d bytes that calls.maxMessageBytes allows", limit),
			Info:    map[string]string{"limit": strconv.FormatInt(limit, 10), "size": strconv.Itoa(end.Size)},
		}
	case bridge.Violation:
		return &front.Failure{
			Reason: front.ReasonInternal, Execution: front.MaybeExecuted, Answer: answer, Message: "worker " + answer.Worker + " sent a frame that this router does not know",
		}
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
	s := c.pool.settings.Load()
	text := fmt.Sprintf("the call ran longer than calls.timeout of %s", s.CallTimeout)
	if c.ask.Stream {
		text = fmt.Sprintf("the stream lasted longer than calls.streamTimeout of %s", s.StreamTimeout)
	}
	c.pool.mu.Lock()
	if c.idle {
		text = fmt.Sprintf("no message of the stream passed within calls.streamIdleTimeout of %s", s.StreamIdleTimeout)
	}
	c.pool.mu.Unlock()
	return &front.Failure{Reason: front.ReasonCallTimeout, Execution: front.MaybeExecuted, Answer: a, Info: workerInfo(a), Message: text}
}

// finished words a Finish.
func (c *call) finished(end *bridge.End, late bool, a front.Answer) *front.Failure {
	code := codes.Code(end.Code)
	switch end.Outcome {
	case bridge.OutcomeDone:
		if late && (code == codes.Canceled || code == codes.DeadlineExceeded) {
			return c.timedOut(a)
		}
	case bridge.OutcomeRefusedTool:
		return c.undeclared()
	case bridge.OutcomeRefusedDeadline:
		return &front.Failure{Code: codes.DeadlineExceeded, Reason: front.ReasonQueueTimeout, Answer: a, Message: "the deadline passed before the worker began the call"}
	case bridge.OutcomeRefusedCancelled:
		return &front.Failure{Code: codes.Canceled, Reason: front.ReasonCancelled, Answer: a, Message: "the call was cancelled before the worker began it"}
	}
	if reason := end.Info.GetReason(); c.ask.Way == front.Direct && end.Outcome == bridge.OutcomeDone && (reason == "" || reason == string(front.ReasonAdapterException)) {
		return plain(code, end.Info, a)
	}
	return adapterFailure(code, end.Info, a)
}

// plain passes on what a method said, as a gRPC server of its own would.
func plain(code codes.Code, info *bridgev1.FinishInfo, a front.Answer) *front.Failure {
	if code == codes.OK || code > codes.Unauthenticated {
		code = codes.Unknown
	}
	return &front.Failure{
		Plain: true, Code: code, Reason: front.ReasonAdapterException, Message: info.GetMessage(), Execution: front.Failed, Answer: a,
		Trailers: toMetadata(info.GetTrailers()),
	}
}

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
	f.Trailers = toMetadata(info.GetTrailers())
	return f
}

// quarantined refuses a request that killed workers.
func (c *call) quarantined() error {
	p := c.pool
	if p.suspects.Load() == 0 {
		return nil
	}
	key := c.requestKey()
	p.mu.Lock()
	defer p.mu.Unlock()
	until, blocked := p.quarantine.Blocked(key, p.now())
	if !blocked {
		return nil
	}
	return &front.Failure{
		Reason: front.ReasonRequestQuarantined, Message: "this request was held by two workers when they died; it is refused until " + until.UTC().Format(time.RFC3339),
		Info: map[string]string{"until": until.UTC().Format(time.RFC3339)},
	}
}

// requestKey is how the quarantine knows a request: by the caller's own id, else by what it asks for. Empty for a stream of requests without an id.
func (c *call) requestKey() string {
	if c.ask.CallerID {
		return "id " + c.ask.RequestID
	}
	if c.ask.ClientStream || c.ask.Target == "" {
		return ""
	}
	sum := c.sum
	if sum == "" {
		sum = c.payloadSum()
	}
	return c.ask.Target + " " + sum
}

// summed is how much of a payload tells it from others, beside its size: a sum over 100 MiB would cost milliseconds.
const summed = 1 << 20

// sumSeed makes the sums this process's own: they never leave it, and nobody outside knows which payloads collide.
var sumSeed = maphash.MakeSeed()

// payloadSum is made for every large request before it is let go; hence no SHA-256, which took a quarter of the router's time for 1 MiB.
func (c *call) payloadSum() string {
	var sum maphash.Hash
	sum.SetSeed(sumSeed)
	left := summed
	for _, p := range c.pieces {
		n := min(len(p), left)
		_, _ = sum.Write(p[:n]) // never fails, by its contract
		left -= n
	}
	return strconv.Itoa(c.size) + " " + strconv.FormatUint(sum.Sum64(), 16)
}

// tell the quarantine what died holding the call; under Pool.mu.
func (c *call) tell(key string, now time.Time) {
	if key != "" {
		c.key = key
	}
	for ; c.key != "" && c.crashes > 0; c.crashes-- {
		c.pool.quarantine.Died(c.key, now)
	}
	if c.survived {
		c.pool.quarantine.Survived(c.key)
	}
	c.pool.suspects.Store(int64(c.pool.quarantine.Len()))
}

// absolve tells the quarantine that the call's worker survived it. While nothing is suspected, which is nearly always, it costs one look.
func (c *call) absolve() {
	p := c.pool
	if !c.survived || p.suspects.Load() == 0 {
		return
	}
	key := c.requestKey()
	p.mu.Lock()
	p.quarantine.Survived(key)
	p.suspects.Store(int64(p.quarantine.Len()))
	p.mu.Unlock()
}
