package rights

import (
	"bytes"
	"encoding/json"
	"io"
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

// A right that is missing is told once, by log, metric and readiness, until the API server says that it is there.
func TestMissing(t *testing.T) {
	s, registry, said := newServer(t), prometheus.NewRegistry(), &bytes.Buffer{}
	config := &rest.Config{Host: s.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}
	log := funcr.New(func(_, text string) { said.WriteString(text + "\n") }, funcr.Options{})
	w, err := Over(config, log, NewMetric(registry))
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(method, path string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil || answer.StatusCode != http.StatusForbidden {
			t.Fatal(answer, err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
	}
	state := func() (lines, metrics int, ready error) {
		w.look(t.Context())
		n, err := testutil.GatherAndCount(registry)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(said.String(), "\n"), n, w.Ready(nil)
	}
	expect := func(what string, lines, metrics int, ready bool) {
		t.Helper()
		if l, m, r := state(); l != lines || m != metrics || (r == nil) != ready {
			t.Errorf("%s: %d lines, %d metrics, ready: %v; want %d, %d, %v. Said:\n%s", what, l, m, r, lines, metrics, ready, said)
		}
	}
	expect("at rest", 0, 0, true)
	if s.reviews != 0 {
		t.Errorf("%d questions at rest", s.reviews)
	}
	s.set(func() { s.holds["create pods"] = true })
	refused("POST", "/api/v1/namespaces/ns/pods")
	expect("a quota", 0, 0, true)
	const status = "/apis/snakepit.dev/v1alpha1/namespaces/ns/workerpools/p/status"
	refused("PATCH", status)
	refused("POST", "/apis/events.k8s.io/v1/namespaces/ns/events")
	expect("two rights are missing", 1, 2, false)
	for _, word := range []string{"patch workerpools.snakepit.dev/status", "create events.events.k8s.io", "kubectl apply"} {
		if !strings.Contains(said.String(), word) {
			t.Errorf("%q was not said: %s", word, said)
		}
	}
	refused("PATCH", status)
	expect("again", 1, 2, false)
	s.set(func() { s.down, s.holds["create events.events.k8s.io"] = true, true })
	expect("no answer is no news", 1, 2, false)
	s.set(func() { s.down = false })
	expect("one is back, though nothing was told since", 1, 1, false)
	if err := w.Ready(nil); err == nil || !strings.HasSuffix(err.Error(), "may not patch workerpools.snakepit.dev/status") {
		t.Errorf("readiness says %v", err)
	}
	s.set(func() { s.holds["patch workerpools.snakepit.dev/status"] = true })
	expect("all are back", 2, 0, true)
	asked := s.reviews
	expect("at rest again", 2, 0, true)
	if s.reviews != asked {
		t.Error("it asks on at rest")
	}
}
