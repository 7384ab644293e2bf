package rights

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/rest"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ method, url, want, namespace string }{
		{"GET", "/api/v1/pods?labelSelector=a", "list pods", ""},
		{"GET", "/api/v1/namespaces/ns/pods?watch=true", "watch pods", "ns"},
		{"GET", "/api/v1/nodes/n", "get nodes", ""},
		{"GET", "/api/v1/namespaces/ns", "get namespaces", ""},
		{"POST", "/apis/events.k8s.io/v1/namespaces/ns/events?fieldManager=m", "create events.events.k8s.io", "ns"},
		{"PATCH", "/apis/snakepit.dev/v1alpha1/namespaces/ns/workerpools/p/status", "patch workerpools.snakepit.dev/status", "ns"},
		{"PUT", "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l", "update leases.coordination.k8s.io", "ns"},
		{"DELETE", "/proxy/of/it/api/v1/namespaces/ns/pods/p", "delete pods", "ns"},
		{"GET", "/apis", "", ""},
		{"GET", "/apis/snakepit.dev/v1alpha1", "", ""},
		{"GET", "/version", "", ""},
	} {
		at, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := parse(&http.Request{Method: c.method, URL: at})
		if ok != (c.want != "") || (ok && (got.String() != c.want || got.namespace != c.namespace)) {
			t.Errorf("%s %s: %v in %q, %v; want %q in %q", c.method, c.url, got, got.namespace, ok, c.want, c.namespace)
		}
	}
}

// server answers everything 403, and reviews by what the operator holds.
type server struct {
	*httptest.Server
	mu      sync.Mutex
	holds   map[string]bool
	down    bool
	reviews int
}

func newServer(t *testing.T) *server {
	s := &server{holds: map[string]bool{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !strings.HasSuffix(r.URL.Path, "/selfsubjectaccessreviews") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		s.reviews++
		var review authorizationv1.SelfSubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || s.down {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		a := review.Spec.ResourceAttributes
		review.Status.Allowed = s.holds[right{a.Verb, a.Group, a.Resource, a.Subresource}.String()]
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review) // the client tells what is wrong with it
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) set(edit func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	edit()
}

// subject is a client under watch, and what is told of it.
type subject struct {
	t        *testing.T
	server   *server
	client   *http.Client
	watch    *Watch
	registry *prometheus.Registry
	said     strings.Builder
}

func newSubject(t *testing.T) *subject {
	t.Helper()
	s := &subject{t: t, server: newServer(t), registry: prometheus.NewRegistry()}
	config := &rest.Config{Host: s.server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}
	log := funcr.New(func(_, text string) { s.said.WriteString(text + "\n") }, funcr.Options{})
	var err error
	if s.watch, err = Over(config, log, NewMetric(s.registry)); err != nil {
		t.Fatal(err)
	}
	if s.client, err = rest.HTTPClientFor(config); err != nil {
		t.Fatal(err)
	}
	return s
}

// refused sends a request; the server refuses all.
func (s *subject) refused(method, path string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.server.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	answer, err := s.client.Do(r)
	if err != nil || answer.StatusCode != http.StatusForbidden {
		s.t.Fatal(answer, err)
	}
	_ = answer.Body.Close() // nothing is in it
}

// expect looks, and compares what was told so far: lines of the log, lines of the metric, and readiness.
func (s *subject) expect(what string, lines, metrics int, ready bool) {
	s.t.Helper()
	s.watch.look(s.t.Context())
	m, err := testutil.GatherAndCount(s.registry)
	if err != nil {
		s.t.Fatal(err)
	}
	l, r := strings.Count(s.said.String(), "\n"), s.watch.Ready(nil)
	if l != lines || m != metrics || (r == nil) != ready {
		s.t.Errorf("%s: %d lines, %d metrics, ready: %v; want %d, %d, %v. Said:\n%s", what, l, m, r, lines, metrics, ready, s.said.String())
	}
}

// A right that is missing is told once, by log, metric and readiness, until the API server says that it is there.
func TestMissing(t *testing.T) {
	s := newSubject(t)
	s.expect("at rest", 0, 0, true)
	if s.server.reviews != 0 {
		t.Errorf("%d questions at rest", s.server.reviews)
	}
	s.server.set(func() { s.server.holds["create pods"] = true })
	s.refused("POST", "/api/v1/namespaces/ns/pods")
	s.expect("a quota", 0, 0, true)
	const status = "/apis/snakepit.dev/v1alpha1/namespaces/ns/workerpools/p/status"
	s.refused("PATCH", status)
	s.refused("POST", "/apis/events.k8s.io/v1/namespaces/ns/events")
	s.expect("two rights are missing", 1, 2, false)
	for _, word := range []string{"patch workerpools.snakepit.dev/status", "create events.events.k8s.io", "kubectl apply"} {
		if !strings.Contains(s.said.String(), word) {
			t.Errorf("%q was not said: %s", word, s.said.String())
		}
	}
	s.refused("PATCH", status)
	s.expect("again", 1, 2, false)
	s.server.set(func() { s.server.down, s.server.holds["create events.events.k8s.io"] = true, true })
	s.expect("no answer is no news", 1, 2, false)
	s.server.set(func() { s.server.down = false })
	s.expect("one is back, though nothing was told since", 1, 1, false)
	if err := s.watch.Ready(nil); err == nil || !strings.HasSuffix(err.Error(), "may not patch workerpools.snakepit.dev/status") {
		t.Errorf("readiness says %v", err)
	}
	s.server.set(func() { s.server.holds["patch workerpools.snakepit.dev/status"] = true })
	s.expect("all are back", 2, 0, true)
	asked := s.server.reviews
	s.expect("at rest again", 2, 0, true)
	if s.server.reviews != asked {
		t.Error("it asks on at rest")
	}
}
