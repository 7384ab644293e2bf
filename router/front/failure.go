package front

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain of every ErrorInfo.
const Domain = "snakepit.dev"

// Bounds of what an error carries: Python's gRPC client drops an error whose trailers exceed about 8 KB and reports another one.
const (
	maxMessageBytes   = 200
	maxInfoBytes      = 256
	maxInfoEntries    = 12
	maxViolations     = 16
	maxViolationBytes = 100
	maxTraceback      = 1500
	maxDetailBytes    = 4 << 10 // all together
)

// Reason is the machine-readable cause of a failure.
type Reason string

// Reasons; docs/reference/errors.md says what each asks of a caller.
const (
	ReasonArgumentInvalid     Reason = "ARGUMENT_INVALID"
	ReasonToolUnknown         Reason = "TOOL_UNKNOWN"
	ReasonMethodUnknown       Reason = "METHOD_UNKNOWN"
	ReasonAdapterException    Reason = "ADAPTER_EXCEPTION"
	ReasonWorkerBusy          Reason = "WORKER_BUSY"
	ReasonQueueFull           Reason = "QUEUE_FULL"
	ReasonQueueTimeout        Reason = "QUEUE_TIMEOUT"
	ReasonDeadlineUnreachable Reason = "DEADLINE_UNREACHABLE"
	ReasonNoReadyWorker       Reason = "NO_READY_WORKER"
	ReasonRecovering          Reason = "RECOVERING"
	ReasonWorkerDied          Reason = "WORKER_DIED"
	ReasonSessionLost         Reason = "SESSION_LOST"
	ReasonSessionExpired      Reason = "SESSION_EXPIRED"
	ReasonSessionUnknown      Reason = "SESSION_UNKNOWN"
	ReasonCallTimeout         Reason = "CALL_TIMEOUT"
	ReasonDraining            Reason = "DRAINING"
	ReasonMessageTooLarge     Reason = "MESSAGE_TOO_LARGE"
	ReasonAlreadyExecuted     Reason = "ALREADY_EXECUTED"
	ReasonRequestQuarantined  Reason = "REQUEST_QUARANTINED"
	ReasonCancelled           Reason = "CANCELLED"
	ReasonInternal            Reason = "INTERNAL"
)

// Execution says whether user code may have run.
type Execution string

// Executions. The zero value stands for NotStarted.
const (
	NotStarted    Execution = "NOT_STARTED"
	MaybeExecuted Execution = "MAYBE_EXECUTED"
	Failed        Execution = "FAILED"
)

// reasonCodes gives each reason its status code. WORKER_DIED is ABORTED once code may have run.
var reasonCodes = map[Reason]codes.Code{
	ReasonArgumentInvalid:     codes.InvalidArgument,
	ReasonToolUnknown:         codes.NotFound,
	ReasonMethodUnknown:       codes.Unimplemented,
	ReasonAdapterException:    codes.Unknown,
	ReasonWorkerBusy:          codes.ResourceExhausted,
	ReasonQueueFull:           codes.ResourceExhausted,
	ReasonQueueTimeout:        codes.ResourceExhausted,
	ReasonDeadlineUnreachable: codes.ResourceExhausted,
	ReasonNoReadyWorker:       codes.Unavailable,
	ReasonRecovering:          codes.Unavailable,
	ReasonWorkerDied:          codes.Unavailable,
	ReasonSessionLost:         codes.Aborted,
	ReasonSessionExpired:      codes.FailedPrecondition,
	ReasonSessionUnknown:      codes.FailedPrecondition,
	ReasonCallTimeout:         codes.DeadlineExceeded,
	ReasonDraining:            codes.Unavailable,
	ReasonMessageTooLarge:     codes.ResourceExhausted,
	ReasonAlreadyExecuted:     codes.Aborted,
	ReasonRequestQuarantined:  codes.FailedPrecondition,
	ReasonCancelled:           codes.Canceled,
	ReasonInternal:            codes.Internal,
}

// Failure is why a call did not go well, before it becomes a gRPC status.
type Failure struct {
	Reason    Reason
	Message   string
	Execution Execution
	// Code overrides the reason's own, for what an adapter chose.
	Code codes.Code
	// Wait is when a repeat may succeed; 0 gives no hint.
	Wait time.Duration
	// Info goes into ErrorInfo.metadata.
	Info map[string]string
	// Violations name bad arguments.
	Violations []Violation
	// Traceback of an adapter's exception, for DebugInfo.
	Traceback string
	// Answer tells where the call ran, when it had a worker.
	Answer Answer
	// Trailers of the adapter's own.
	Trailers metadata.MD
	// Plain: a method's own status. It travels as the adapter gave it, without ErrorInfo, as from a gRPC server of its own.
	Plain bool
}

// Violation is one bad argument.
type Violation struct{ Field, Description string }

// Error is the message that callers see.
func (f *Failure) Error() string { return f.Message }

// StatusCode is the gRPC code of the failure.
func (f *Failure) StatusCode() codes.Code {
	switch {
	case f.Code != codes.OK:
		return f.Code
	case f.Reason == ReasonWorkerDied && f.Execution == MaybeExecuted:
		return codes.Aborted
	}
	if code, ok := reasonCodes[f.Reason]; ok {
		return code
	}
	return codes.Internal
}

// final failures are never to be repeated by a library.
func (f *Failure) final() bool {
	switch f.Reason {
	case ReasonSessionLost, ReasonSessionExpired, ReasonCallTimeout, ReasonAlreadyExecuted:
		return true
	}
	return f.Execution == MaybeExecuted
}

// say adds to what ErrorInfo tells.
func (f *Failure) say(key, value string) {
	info := make(map[string]string, len(f.Info)+1)
	for k, v := range f.Info {
		info[k] = v
	}
	info[key] = value
	f.Info = info
}

// status builds the bounded status that travels: what it carries is shortened until all details fit.
func (f *Failure) status() error {
	if f.Plain {
		return status.Error(f.StatusCode(), f.Message)
	}
	st := status.New(f.StatusCode(), clip(f.Message, maxMessageBytes))
	for share := 1; ; share *= 2 {
		with, err := st.WithDetails(f.details(share)...)
		if err != nil {
			return st.Err()
		}
		if share == 16 || proto.Size(with.Proto()) <= maxDetailBytes {
			return with.Err()
		}
	}
}

// details of the failure; longer texts are clipped to one share of so many.
func (f *Failure) details(share int) []protoadapt.MessageV1 {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: string(f.Reason), Domain: Domain, Metadata: f.infoMetadata(share)}}
	if f.Wait > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(f.Wait)})
	}
	if len(f.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range f.Violations[:min(len(f.Violations), max(maxViolations/share, 1))] {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: clip(v.Field, maxViolationBytes), Description: clip(v.Description, maxViolationBytes)})
		}
		details = append(details, bad)
	} else if f.Traceback != "" {
		details = append(details, &errdetails.DebugInfo{Detail: clip(f.Traceback, maxTraceback/share)})
	}
	return details
}

func (f *Failure) infoMetadata(share int) map[string]string {
	m := make(map[string]string, len(f.Info)+1)
	for k, v := range f.Info {
		if len(m) == maxInfoEntries {
			break
		}
		m[clip(k, 64)] = clip(v, maxInfoBytes/share)
	}
	execution := f.Execution
	if execution == "" {
		execution = NotStarted
	}
	m["execution"] = string(execution)
	return m
}

// trailer holds the metadata beside the status: the pushback that gRPC libraries obey, and where the call was.
func (f *Failure) trailer(requestID string) metadata.MD {
	md := f.Answer.metadata(requestID)
	switch {
	case f.Plain:
	case f.final():
		md.Set(keyPushback, "-1")
	case f.Wait > 0:
		md.Set(keyPushback, strconv.FormatInt(f.Wait.Milliseconds(), 10))
	}
	return metadata.Join(md, f.Trailers)
}

// RequestTimeout bounds the time that a reserved worker, and room for the message, wait for a caller's request.
const RequestTimeout = 10 * time.Second

// LateRequest is the failure of a call whose message took longer.
func LateRequest() *Failure {
	return &Failure{
		Code: codes.DeadlineExceeded, Reason: ReasonQueueTimeout,
		Message: "the request did not arrive within " + RequestTimeout.String() + " of its admission",
	}
}

func tooLarge(limit, size int64) *Failure {
	return &Failure{
		Reason:  ReasonMessageTooLarge,
		Message: fmt.Sprintf("the request has %d bytes or more; calls.maxMessageBytes allows %d", size, limit),
		Info:    map[string]string{"limit": fmt.Sprint(limit), "size": fmt.Sprint(size)},
	}
}

// contextStatus is what a caller sees of its own deadline or cancellation.
func contextStatus(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the caller's deadline passed")
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the caller cancelled")
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, clip(err.Error(), maxMessageBytes))
}

// begun adds to a failure that the handler may have run by then.
func begun(err error) error {
	var failure *Failure
	if errors.As(err, &failure) && failure.Execution == "" {
		failure.Execution = MaybeExecuted
	}
	return err
}

func invalid(field, format string, args ...any) *Failure {
	description := fmt.Sprintf(format, args...)
	return &Failure{Reason: ReasonArgumentInvalid, Message: field + ": " + description, Violations: []Violation{{field, description}}}
}

// clip shortens text to whole runes within a number of bytes; text that is not UTF-8 becomes so, as gRPC asks.
func clip(s string, limit int) string {
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	if len(s) <= limit {
		return s
	}
	cut := limit - len("…")
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
