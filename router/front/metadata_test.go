package front

import (
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"
)

// The keys of ours, derived a second time from docs/reference/metadata.md.
var (
	sessionShape   = regexp.MustCompile(`^[A-Za-z0-9._:@/-]{1,128}$`)
	tokenShape     = regexp.MustCompile(`^[A-Za-z0-9_-]{1,256}$`)
	tenantShape    = regexp.MustCompile(`^[A-Za-z0-9._:@/-]{1,64}$`)
	requestIDShape = regexp.MustCompile(`^[\x21-\x2b\x2d-\x7e]{1,128}$`)
	traceShape     = regexp.MustCompile(`^[\x21-\x2b\x2d-\x7e]{1,64}$`)
)

// acceptable says whether metadata is taken, by the documentation alone.
func acceptable(md metadata.MD) bool {
	for key, shape := range map[string]*regexp.Regexp{
		"snakepit-session": sessionShape, "snakepit-session-token": tokenShape, "snakepit-tenant": tenantShape, "snakepit-request-id": requestIDShape,
		"traceparent": traceShape, "snakepit-session-create": regexp.MustCompile("^true$"), "snakepit-idempotent": regexp.MustCompile("^true$"),
		"snakepit-affinity": regexp.MustCompile("^(hint|strict-queue|strict-fail-fast)$"),
	} {
		values, sent := md[key]
		if sent && len(values) > 0 && (len(values) != 1 || !shape.MatchString(values[0])) {
			return false
		}
	}
	if len(md["snakepit-session"]) == 0 && (len(md["snakepit-session-token"]) > 0 || len(md["snakepit-session-create"]) > 0) {
		return false
	}
	entries, size := 0, 0
	for key, values := range md {
		if strings.HasPrefix(key, "snakepit-") || strings.HasPrefix(key, "grpc-") || strings.HasPrefix(key, ":") ||
			key == "content-type" || key == "te" || key == "host" || key == "" {
			continue
		}
		for _, v := range values {
			entries++
			size += len(key) + len(v)
		}
	}
	return entries <= 64 && size <= 32<<10
}

// FuzzMetadata: metadata is accepted exactly when the documentation says so, and what is accepted comes out as it went in.
func FuzzMetadata(f *testing.F) {
	for _, text := range []string{
		"snakepit-session=a\nsnakepit-session-create=true", "snakepit-session=a\nsnakepit-session=b", "snakepit-session=a,b", "snakepit-session-token=abc",
		"snakepit-affinity=sticky", "snakepit-affinity=hint", "snakepit-request-id=r 1", "x-bin=\x00\nx-bin=\x01\n:authority=h\nuser-agent=u",
		"traceparent=00-1-2-3", "snakepit-tenant=blue", "snakepit-idempotent=yes", "snakepit-session=" + strings.Repeat("a", 129), strings.Repeat("k=v\n", 65),
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		md := metadata.MD{}
		for line := range strings.SplitSeq(text, "\n") {
			if key, value, ok := strings.Cut(line, "="); ok {
				md[strings.ToLower(key)] = append(md[strings.ToLower(key)], value)
			}
		}
		var call Call
		failure := parse(md, &call)
		if (failure == nil) != acceptable(md) {
			t.Fatalf("%q: %v", md, failure)
		}
		if failure != nil {
			if failure.Reason != ReasonArgumentInvalid || len(failure.Violations) != 1 {
				t.Fatalf("%+v", failure)
			}
			return
		}
		one := func(key string) string { return strings.Join(md[key], "\n") }
		if call.Session != one("snakepit-session") || call.Token != one("snakepit-session-token") || call.Tenant != one("snakepit-tenant") ||
			call.CallerID && call.RequestID != one("snakepit-request-id") || call.RequestID == "" || call.Traceparent != one("traceparent") {
			t.Fatalf("%q became %+v", md, call)
		}
		seen := map[string][]string{}
		for _, m := range call.Metadata {
			seen[m.Key] = append(seen[m.Key], m.Value)
		}
		for key, values := range seen {
			if strings.Join(values, "\n") != strings.Join(md[key], "\n") {
				t.Fatalf("%s: %q became %q", key, md[key], values)
			}
		}
	})
}
