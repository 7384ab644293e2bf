package front

import (
	"context"
	"time"
)

// Pool is what the front needs of the rest of the router. Its methods are called from many goroutines.
type Pool interface {
	// Admit waits until a worker has a free slot for the call. The error is a *Failure, or the context's own.
	Admit(ctx context.Context, call *Call) (Reservation, error)
	// OpenSession starts or joins the life of call.Session and returns when session_start has ended. Errors as for Admit.
	OpenSession(ctx context.Context, call *Call) (Session, error)
	// CloseSession ends a life; false when there was none.
	CloseSession(ctx context.Context, call *Call) (bool, error)
	// GetSession says what is known of a life, without touching its idle time.
	GetSession(call *Call) (Session, error)
	// Tools of the adapter; false before a worker has declared them. The slice is immutable.
	Tools() ([]Tool, bool)
	// MaxMessageBytes is calls.maxMessageBytes as it is now.
	MaxMessageBytes() int64
}

// Reservation is a worker's slot held for one call. It is used by one goroutine; Release ends it.
type Reservation interface {
	// Answer is what the headers of the answer say.
	Answer() Answer
	// Tool finds a tool of the worker that was reserved.
	Tool(name string) (index int, tool Tool, ok bool)
	// Start writes the call. The request is not kept after it returns. A call that proved not to have run is repeated on another worker by the pool itself.
	Start(ctx context.Context, tool int, method Method, request []byte) error
	// Recv waits for the next message of the answer. After the last one it returns io.EOF, or the *Failure that ended the call; a failure may come with a message.
	Recv(ctx context.Context) ([]byte, error)
	// Release ends the reservation. A call that still runs is cancelled; its slot is free when its handler has returned.
	Release()
}

// Method is the generic API's way of calling a tool.
type Method uint8

// Methods.
const (
	Execute Method = iota
	ExecuteStream
)

// Affinity that a call asks for; the zero value takes the pool's.
type Affinity uint8

// Affinities, from loose to strict.
const (
	AffinityPool Affinity = iota
	AffinityHint
	AffinityStrictQueue
	AffinityStrictFailFast
)

// Call is what a caller's metadata says.
type Call struct {
	// Session is the session's name, empty for none; valid by shape.
	Session string
	// Token is the session token as sent, empty for none.
	Token string
	// Create allows this call to start the session.
	Create bool
	// Affinity is never weaker than the pool's once admitted.
	Affinity Affinity
	// RequestID is the caller's, or made by the front.
	RequestID string
	// Traceparent is the W3C trace context, empty for none.
	Traceparent string
	// Idempotent is the caller's word that a repeat does no harm.
	Idempotent bool
	// Stream says that more than one answer may come.
	Stream bool
	// Deadline is the caller's; zero for none.
	Deadline time.Time
}

// Answer is what the headers of an answer say about where it came from.
type Answer struct {
	Worker       string
	SessionState string
	SessionToken string
	EndsAt       time.Time
}

// Session is one life.
type Session struct {
	Name    string
	Epoch   uint64
	Pending int
	Answer  Answer
}

// Tool is one callable of the adapter.
type Tool struct {
	Name             string
	Description      string
	ParametersSchema string
	Streaming        bool
	Idempotent       bool
}

// Observer records calls. It is called once a call, on its goroutine.
type Observer interface {
	// Called: tool is empty when it was never known; reason is empty when the call went well.
	Called(tool, code, reason string, took time.Duration)
}
