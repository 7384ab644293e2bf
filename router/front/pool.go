package front

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
)

// Pool is what the front needs of the rest of the router. Its methods are called from many goroutines.
type Pool interface {
	// Admit takes a call. One that is Ready is written to a worker as soon as one is free; Admit does not wait for that. The error is a *Failure.
	Admit(call *Call) (Exchange, error)
	// OpenSession starts or joins the life of call.Session and returns when session_start has ended. The error is a *Failure, or the context's own.
	OpenSession(ctx context.Context, call *Call) (Session, error)
	// CloseSession ends a life; false when there was none.
	CloseSession(ctx context.Context, call *Call) (bool, error)
	// GetSession says what is known of a life, without touching its idle time.
	GetSession(call *Call) (Session, error)
	// Declared is what the adapter offers; nil before a worker has declared it.
	Declared() *Declared
	// MaxMessageBytes is calls.maxMessageBytes as it is now.
	MaxMessageBytes() int64
	// QueueTimeout is queue.timeout as it is now.
	QueueTimeout() time.Duration
}

// Exchange is one call under way. One goroutine uses it, except that another one may Send and CloseSend; Release ends it.
type Exchange interface {
	// Wait returns once a worker has a free slot for a call that is not Ready. The error is a *Failure, or the context's own.
	Wait(ctx context.Context) error
	// Declared is what the worker that has the call offers.
	Declared() *Declared
	// Start writes a call that waited: its Target, Way, ClientStream and Request are set by now. What belongs to the request is not freed before Release, or before a Reply says Consumed.
	Start(ctx context.Context) error
	// Send writes one message of a ClientStream's request; CloseSend ends it. io.EOF says that no more is wanted.
	Send(ctx context.Context, message mem.BufferSlice) error
	CloseSend(ctx context.Context) error
	// Recv waits for the next part of the answer. After the last message it returns io.EOF, or the *Failure that ended the call, or the context's
	// own error; a message may come beside each of them. A call that proved not to have run is repeated by the pool itself.
	Recv(ctx context.Context) (Reply, error)
	// Answer is what the headers of the answer say; known once Wait or Recv returned.
	Answer() *Answer
	// Release ends the caller's interest. A call that still runs is cancelled; its slot is free when its handler has returned.
	Release()
}

// Reply is a part of an answer.
type Reply struct {
	// Headers are the adapter's initial metadata; Flush says that they came alone and are to be sent at once.
	Headers metadata.MD
	Flush   bool
	// Message, when HasMessage; the caller frees it, or passes it on to grpc, which does.
	Message    mem.BufferSlice
	HasMessage bool
	// Trailers beside io.EOF.
	Trailers metadata.MD
	// Consumed says, once and alone, that a large request is not needed any more: it is with the worker and would not be repeated.
	Consumed bool
}

// Way is how a call names what it wants.
type Way uint8

// Ways.
const (
	Execute Way = iota
	ExecuteStream
	// Direct calls a gRPC method of the adapter's own.
	Direct
)

// Declared is what an adapter offers. It does not change once made.
type Declared struct {
	Tools   []Tool
	Methods []Method
	// Files are serialized FileDescriptorProtos of the methods' services.
	Files [][]byte

	byTool   map[string]int
	byMethod map[string]int
}

// NewDeclared makes an index of what an adapter offers; of two entries with one name the first counts.
func NewDeclared(tools []Tool, methods []Method, files [][]byte) *Declared {
	d := &Declared{Tools: tools, Methods: methods, Files: files, byTool: make(map[string]int, len(tools)), byMethod: make(map[string]int, len(methods))}
	for i := range tools {
		if _, ok := d.byTool[tools[i].Name]; !ok {
			d.byTool[tools[i].Name] = i
		}
	}
	for i := range methods {
		if _, ok := d.byMethod[methods[i].Path]; !ok {
			d.byMethod[methods[i].Path] = i
		}
	}
	return d
}

// Number is the one that the bridge gives to a target, and whether it is declared; idempotent is the adapter's word.
func (d *Declared) Number(target string, way Way) (number int, idempotent, ok bool) {
	if way == Direct {
		i, ok := d.byMethod[target]
		return len(d.Tools) + i, ok && d.Methods[i].Idempotent, ok
	}
	i, ok := d.byTool[target]
	return i, ok && d.Tools[i].Idempotent, ok
}

// Tool of that name, or nil.
func (d *Declared) Tool(name string) *Tool {
	if i, ok := d.byTool[name]; ok {
		return &d.Tools[i]
	}
	return nil
}

// Method of that path, or nil.
func (d *Declared) Method(path string) *Method {
	if i, ok := d.byMethod[path]; ok {
		return &d.Methods[i]
	}
	return nil
}

// Method is one gRPC method of the adapter's servicers.
type Method struct {
	Path         string
	ClientStream bool
	ServerStream bool
	Idempotent   bool
}

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
	// RequestID is the caller's (CallerID), or made by the front.
	RequestID string
	CallerID  bool
	// Tenant that the call counts for, empty for the common one.
	Tenant string
	// Peer is the caller's address as gRPC names it.
	Peer string
	// Unread counts what the caller's connection does not read; nil where that is not known.
	Unread *Unread
	// Metadata is the caller's own, for the worker: at most 64 entries and 32 KiB, by key; values of one key keep their order.
	Metadata []Metadatum
	// Traceparent is the W3C trace context, empty for none.
	Traceparent string
	// Idempotent is the caller's word that a repeat does no harm.
	Idempotent bool
	// Deadline is the caller's; zero for none.
	Deadline time.Time

	// Target is a tool's name or a method's path, as Way says.
	Target string
	Way    Way
	// Stream says that more than one message may come in either direction; ClientStream, that the request comes by Send.
	Stream       bool
	ClientStream bool
	// Ready says that everything is known that a worker needs: Target, and Request unless it is a ClientStream.
	Ready   bool
	Request mem.BufferSlice
}

// Metadatum is one entry of metadata; the value of a key that ends in -bin is raw bytes.
type Metadatum struct{ Key, Value string }

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
	// Called: target is a tool's name, a method's path or a small method of ours, and empty when it was never known; reason is empty when the call
	// went well, or failed as the adapter wished.
	Called(target string, code codes.Code, reason Reason, took time.Duration)
}
