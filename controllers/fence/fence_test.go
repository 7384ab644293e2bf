package fence

import (
	"errors"
	"net/http"
	"testing"
	"time"

	testclock "k8s.io/utils/clock/testing"
)

func TestFence(t *testing.T) {
	const lease, pods = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/it", "/api/v1/namespaces/ns/pods"
	clock := testclock.NewFakePassiveClock(time.Unix(1000, 0))
	code := http.StatusOK
	through := New(15*time.Second, clock).Wrap(roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: code, Body: http.NoBody}, nil
	}))
	for i, step := range []struct {
		after        time.Duration
		method, path string
		code         int
		passes       bool
	}{
		{0, "POST", pods, 200, false}, // before the first lease
		{0, "GET", pods, 200, true},
		{0, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", 200, true},
		{0, "POST", lease, 201, true},
		{14 * time.Second, "POST", pods, 200, true},
		{0, "PUT", lease, 200, true}, // renewed
		{14 * time.Second, "DELETE", pods, 200, true},
		{time.Second, "DELETE", pods, 200, false}, // run out, to the moment
		{0, "PATCH", pods, 200, false},
		{0, "GET", pods, 200, true},
		{0, "PUT", lease, 409, true}, // another leads: the refused renewal opens nothing
		{0, "POST", pods, 200, false},
		{0, "PUT", lease, 200, true}, // nobody took it meanwhile
		{0, "POST", pods, 200, true},
	} {
		clock.SetTime(clock.Now().Add(step.after))
		code = step.code
		request, err := http.NewRequestWithContext(t.Context(), step.method, "https://it"+step.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := through.RoundTrip(request)
		if err == nil {
			_ = response.Body.Close()
		}
		if (err == nil) != step.passes || (err != nil && !errors.Is(err, ErrExpired)) {
			t.Errorf("step %d, %s %s: %v, want it to pass: %t", i, step.method, step.path, err, step.passes)
		}
	}
}
