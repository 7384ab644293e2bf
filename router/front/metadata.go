package front

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/tap"
)

// Metadata keys, as docs/reference/metadata.md describes them.
const (
	keySession       = "snakepit-session"
	keySessionToken  = "snakepit-session-token"
	keySessionCreate = "snakepit-session-create"
	keyAffinity      = "snakepit-affinity"
	keyRequestID     = "snakepit-request-id"
	keyIdempotent    = "snakepit-idempotent"
	keyTenant        = "snakepit-tenant"
	keyTraceparent   = "traceparent"

	keyWorker        = "snakepit-worker"
	keySessionState  = "snakepit-session-state"
	keySessionEndsAt = "snakepit-session-ends-at"
	keyPushback      = "grpc-retry-pushback-ms"
)

const (
	maxSessionBytes   = 128
	maxTokenBytes     = 256
	maxRequestIDBytes = 128
	maxTenantBytes    = 64
	// of a caller's own metadata, as docs/bridge.md bounds it.
	maxMetadataEntries = 64
	maxMetadataBytes   = 32 << 10
)

var affinities = map[string]Affinity{
	"hint": AffinityHint, "strict-queue": AffinityStrictQueue, "strict-fail-fast": AffinityStrictFailFast,
}

type headersKey struct{}

// keepHeaders notes the headers of a call as they came: metadata.FromIncomingContext would copy them.
func keepHeaders(ctx context.Context, info *tap.Info) (context.Context, error) {
	return context.WithValue(ctx, headersKey{}, info.Header), nil
}

// headersOf a call; they are not to be changed.
func headersOf(ctx context.Context) metadata.MD {
	if md, ok := ctx.Value(headersKey{}).(metadata.MD); ok {
		return md
	}
	md, _ := metadata.FromIncomingContext(ctx)
	return md
}

// parse reads what a caller's metadata says, or names the key that is wrong and what it should be.
func parse(md metadata.MD, call *Call) *Failure {
	own := 0
	for key, values := range md {
		switch {
		case strings.HasPrefix(key, "snakepit-"):
			own++
		case !ofTransport(key):
			for _, value := range values {
				call.Metadata = append(call.Metadata, Metadatum{key, value})
			}
		}
	}
	if failure := bound(call.Metadata); failure != nil {
		return failure
	}
	if trace := md[keyTraceparent]; len(trace) == 1 && wellFormed(trace[0], 64, isPrintable) {
		call.Traceparent = trace[0]
	} else if len(trace) > 0 {
		return invalid(keyTraceparent, "must be one W3C traceparent")
	}
	if own > 0 {
		if failure := parseOwn(md, call); failure != nil {
			return failure
		}
	}
	if call.RequestID == "" {
		call.RequestID = newRequestID()
	}
	return nil
}

// ofTransport says that a key belongs to HTTP/2 or gRPC and not to the caller; "user-agent" is shown to handlers, as gRPC servers do.
func ofTransport(key string) bool {
	switch key {
	case "content-type", "te", "host", "":
		return true
	}
	return key[0] == ':' || strings.HasPrefix(key, "grpc-")
}

// bound the caller's own metadata, and put it into an order that does not depend on chance; values of one key keep theirs.
func bound(all []Metadatum) *Failure {
	if len(all) > maxMetadataEntries {
		return invalid("metadata", "has %d entries; %d are allowed", len(all), maxMetadataEntries)
	}
	size := 0
	for _, m := range all {
		size += len(m.Key) + len(m.Value)
	}
	if size > maxMetadataBytes {
		return invalid("metadata", "has %d bytes; %d are allowed", size, maxMetadataBytes)
	}
	if len(all) > 1 {
		sort.Stable(byKey(all))
	}
	return nil
}

type byKey []Metadatum

func (b byKey) Len() int           { return len(b) }
func (b byKey) Less(i, j int) bool { return b[i].Key < b[j].Key }
func (b byKey) Swap(i, j int)      { b[i], b[j] = b[j], b[i] }

// field describes a key of ours.
type field struct {
	key    string
	limit  int
	valid  func(byte) bool
	expect string
}

var (
	sessionField   = field{keySession, maxSessionBytes, isSessionByte, "1 to 128 of A-Z a-z 0-9 . _ : @ / -"}
	tokenField     = field{keySessionToken, maxTokenBytes, isBase64URLByte, "a token as an answer gave it, at most 256 bytes of base64url"}
	requestIDField = field{keyRequestID, maxRequestIDBytes, isPrintable, "1 to 128 printable ASCII characters without a comma"}
	tenantField    = field{keyTenant, maxTenantBytes, isSessionByte, "1 to 64 of A-Z a-z 0-9 . _ : @ / -"}
	affinityField  = field{keyAffinity, 32, isPrintable, "hint, strict-queue or strict-fail-fast"}
	createField    = field{keySessionCreate, 8, isPrintable, "true, or not be sent"}
	idempotent     = field{keyIdempotent, 8, isPrintable, "true, or not be sent"}
)

// read finds the one value of a key; empty when it was not sent.
func (f *field) read(md metadata.MD, failure **Failure) string {
	values := md[f.key]
	switch {
	case len(values) == 0 || *failure != nil:
		return ""
	case len(values) > 1:
		*failure = invalid(f.key, "is sent %d times; send it once", len(values))
		return ""
	case !wellFormed(values[0], f.limit, f.valid):
		*failure = invalid(f.key, "must be %s", f.expect)
		return ""
	}
	return values[0]
}

// flag is a key whose only value is true.
func (f *field) flag(md metadata.MD, failure **Failure) bool {
	value := f.read(md, failure)
	if value != "" && value != "true" {
		*failure = invalid(f.key, "must be %s", f.expect)
	}
	return value == "true"
}

// parseOwn reads the keys of ours.
func parseOwn(md metadata.MD, call *Call) *Failure {
	var failure *Failure
	call.Session = sessionField.read(md, &failure)
	call.Token = tokenField.read(md, &failure)
	call.RequestID = requestIDField.read(md, &failure)
	call.CallerID = call.RequestID != ""
	call.Tenant = tenantField.read(md, &failure)
	call.Create = createField.flag(md, &failure)
	call.Idempotent = idempotent.flag(md, &failure)
	affinity := affinityField.read(md, &failure)
	switch {
	case failure != nil:
		return failure
	case call.Session == "" && call.Token != "":
		return invalid(keySession, "must be sent beside %s", keySessionToken)
	case call.Session == "" && call.Create:
		return invalid(keySession, "must be sent beside %s", keySessionCreate)
	}
	if affinity != "" {
		known, ok := affinities[affinity]
		if !ok {
			return invalid(keyAffinity, "must be %s", affinityField.expect)
		}
		call.Affinity = known
	}
	return nil
}

// Request ids that callers did not choose: a random prefix of this process and a number.
var (
	requestPrefix = func() string {
		var b [6]byte
		_, _ = rand.Read(b[:]) // never fails, by its contract
		return hex.EncodeToString(b[:]) + "-"
	}()
	requestNumber atomic.Uint64
)

func newRequestID() string {
	var b [32]byte
	return string(strconv.AppendUint(append(b[:0], requestPrefix...), requestNumber.Add(1), 36))
}

func wellFormed(value string, limit int, valid func(byte) bool) bool {
	if value == "" || len(value) > limit {
		return false
	}
	for i := 0; i < len(value); i++ {
		if !valid(value[i]) {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isSessionByte(c byte) bool   { return isAlphanumeric(c) || strings.IndexByte("._:@/-", c) >= 0 }
func isBase64URLByte(c byte) bool { return isAlphanumeric(c) || c == '-' || c == '_' }
func isPrintable(c byte) bool     { return c > ' ' && c < 0x7f && c != ',' }

// metadata is what an answer's headers, or a refusal's trailers, say.
func (a *Answer) metadata(requestID string) metadata.MD {
	n := 5
	if a.EndsAt.IsZero() {
		n = 4
	}
	md, values := make(metadata.MD, n), make([]string, 0, n)
	set := func(key, value string) {
		if value != "" {
			values = append(values, value)
			md[key] = values[len(values)-1 : len(values) : len(values)]
		}
	}
	set(keyRequestID, requestID)
	set(keyWorker, a.Worker)
	set(keySessionState, a.SessionState)
	set(keySessionToken, a.SessionToken)
	if !a.EndsAt.IsZero() {
		set(keySessionEndsAt, a.EndsAt.UTC().Format(time.RFC3339Nano))
	}
	return md
}
