package fence

import (
	"errors"
	"net/http"
	"testing"
	"time"
)

// clocks are a machine's two: the time of day, and the monotonic one, by which Since counts.
type clocks struct {
	day, monotonic time.Duration
	asked          map[time.Time]time.Duration // the monotonic part of what Now returned
}

func (c *clocks) Now() time.Time {
	now := time.Unix(1000, 0).Add(c.day)
	c.asked[now] = c.monotonic
	return now
}

func (c *clocks) Since(t time.Time) time.Duration { return c.monotonic - c.asked[t] }

func TestFence(t *testing.T) {
	const lease, pods = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/it", "/api/v1/namespaces/ns/pods"
	now := &clocks{asked: map[time.Time]time.Duration{}}
	code := http.StatusOK
	through := New(15*time.Second, now).Wrap(roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: code, Body: http.NoBody}, nil
	}))
	for i, step := range []struct {
		after, aside time.Duration // by both clocks; by that of the day alone
		method, path string
		code         int
		passes       bool
	}{
		{0, 0, "POST", pods, 200, false}, // before the first lease
		{0, 0, "GET", pods, 200, true},
		{0, 0, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", 200, true},
		{0, 0, "POST", lease, 201, true},
		{14 * time.Second, 0, "POST", pods, 200, true},
		{0, 0, "PUT", lease, 200, true}, // renewed
		{14 * time.Second, 0, "DELETE", pods, 200, true},
		{time.Second, 0, "DELETE", pods, 200, false}, // run out, to the moment
		{0, 0, "PATCH", pods, 200, false},
		{0, 0, "GET", pods, 200, true},
		{0, 0, "PUT", lease, 409, true}, // another leads: the refused renewal opens nothing
		{0, 0, "POST", pods, 200, false},
		{0, 0, "PUT", lease, 200, true}, // nobody took it meanwhile
		{0, 0, "POST", pods, 200, true},
		{0, 20 * time.Second, "POST", pods, 200, false}, // the machine slept
		{0, 0, "PUT", lease, 200, true},
		{0, 0, "POST", pods, 200, true},
		{14 * time.Second, -time.Hour, "POST", pods, 200, true}, // the time of day was set back
		{time.Second, 0, "POST", pods, 200, false},
	} {
		now.day += step.after + step.aside
		now.monotonic += step.after
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
