package front

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
)

// Metadata keys, as docs/reference/metadata.md describes them.
const (
	keySession       = "snakepit-session"
	keySessionToken  = "snakepit-session-token"
	keySessionCreate = "snakepit-session-create"
	keyAffinity      = "snakepit-affinity"
	keyRequestID     = "snakepit-request-id"
	keyIdempotent    = "snakepit-idempotent"
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
)

var affinities = map[string]Affinity{
	"hint": AffinityHint, "strict-queue": AffinityStrictQueue, "strict-fail-fast": AffinityStrictFailFast,
}

// parse reads what a caller's metadata says, or names the key that is wrong and what it should be.
func parse(md metadata.MD) (*Call, *Failure) {
	call := &Call{}
	var failure *Failure
	text := func(key string, limit int, valid func(byte) bool, expect string) string {
		values := md[key]
		if len(values) == 0 || failure != nil {
			return ""
		}
		if len(values) > 1 {
			failure = invalid(key, "is sent %d times; send it once", len(values))
			return ""
		}
		if !wellFormed(values[0], limit, valid) {
			failure = invalid(key, "must be %s", expect)
		}
		return values[0]
	}
	call.Session = text(keySession, maxSessionBytes, isSessionByte, "1 to 128 of A-Z a-z 0-9 . _ : @ / -")
	call.Token = text(keySessionToken, maxTokenBytes, isBase64URLByte, "a token as an answer gave it, at most 256 bytes of base64url")
	call.RequestID = text(keyRequestID, maxRequestIDBytes, isPrintable, "1 to 128 printable ASCII characters without a comma")
	call.Traceparent = text(keyTraceparent, 64, isPrintable, "a W3C traceparent")
	call.Create = text(keySessionCreate, 4, isPrintable, "true") != ""
	call.Idempotent = text(keyIdempotent, 4, isPrintable, "true") != ""
	affinity := text(keyAffinity, 32, isPrintable, "hint, strict-queue or strict-fail-fast")
	if failure != nil {
		return nil, failure
	}
	return call, complete(call, md, affinity)
}

// complete checks what depends on more than one key, and fills in the request id.
func complete(call *Call, md metadata.MD, affinity string) *Failure {
	for _, key := range []string{keySessionCreate, keyIdempotent} {
		if values := md[key]; len(values) == 1 && values[0] != "true" {
			return invalid(key, "must be true, or not be sent")
		}
	}
	if affinity != "" {
		known, ok := affinities[affinity]
		if !ok {
			return invalid(keyAffinity, "must be hint, strict-queue or strict-fail-fast")
		}
		call.Affinity = known
	}
	if call.Session == "" {
		switch {
		case call.Token != "":
			return invalid(keySession, "must be sent beside %s", keySessionToken)
		case call.Create:
			return invalid(keySession, "must be sent beside %s", keySessionCreate)
		}
	}
	if call.RequestID == "" {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails, by its contract
		call.RequestID = hex.EncodeToString(id[:])
	}
	return nil
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
func (a Answer) metadata(requestID string) metadata.MD {
	md := make(metadata.MD, 5)
	set := func(key, value string) {
		if value != "" {
			md[key] = []string{value}
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
