// Package rights says which rights the operator lacks where that needs no right: on its log, in a metric and as its readiness. Conditions and
// Events need the very rights that may be missing.
//
// It asks for nothing while nothing is refused. What is refused is suspected first: a quota, a policy and a missing right have the same answer,
// 403, and the API server itself is asked which it was. It decides nothing, and changes nothing that the operator does.
package rights

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	authorization "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
)

const (
	// interval is the time between two looks at what is suspected.
	interval = 5 * time.Second
	// patience bounds one question.
	patience = 5 * time.Second
)

// cure is what the log says beside a missing right.
const cure = "apply again what installed the operator: kubectl apply -f dist/install.yaml (for one namespace: kubectl apply -k config/namespaced)"

// Metric has its line for each missing right, and none for others. Its methods are safe for concurrent use.
type Metric struct{ vec *prometheus.GaugeVec }

// NewMetric registers it.
func NewMetric(r prometheus.Registerer) Metric {
	m := Metric{prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "snakepit_operator_rights_missing",
		Help: "1 for a right that the operator needed and lacks, by the API server's word; absent for others. With all rights gone nobody can scrape it.",
	}, []string{"verb", "resource"})}
	r.MustRegister(m.vec)
	return m
}

// right is what a request needs, in the words of RBAC, but for names and namespaces.
type right struct{ verb, group, resource, subresource string }

// String is as kubectl auth can-i takes it: "patch workerpools.snakepit.dev/status".
func (r right) String() string { return r.verb + " " + r.object() }

func (r right) object() string {
	text := r.resource
	if r.group != "" {
		text += "." + r.group
	}
	if r.subresource != "" {
		text += "/" + r.subresource
	}
	return text
}

// request is a right at one place.
type request struct {
	right
	namespace, name string
}

// Watch knows what was refused. Its methods are safe for concurrent use.
type Watch struct {
	reviews authorization.SelfSubjectAccessReviewInterface
	log     logr.Logger
	metric  Metric

	mu sync.Mutex
	// suspected has the last refused request of each right that was refused since it was last found to be there.
	suspected map[right]request
	missing   map[right]bool
}

// Over looks at every answer to the clients that are made of config from now on.
func Over(config *rest.Config, log logr.Logger, metric Metric) (*Watch, error) {
	client, err := authorization.NewForConfig(config) // before the wrapping: its own questions are not looked at
	if err != nil {
		return nil, err
	}
	w := &Watch{reviews: client.SelfSubjectAccessReviews(), log: log, metric: metric, suspected: map[right]request{}, missing: map[right]bool{}}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return answers{w, next} })
	return w, nil
}

type answers struct {
	*Watch
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := a.next.RoundTrip(r)
	if err == nil && answer.StatusCode == http.StatusForbidden {
		if refused, ok := parse(r); ok {
			a.mu.Lock()
			a.suspected[refused.right] = refused
			a.mu.Unlock()
		}
	}
	return answer, err
}

// Run looks, now and then, until the context ends. It needs no lease and no cache: who may not read has no cache.
func (w *Watch) Run(ctx context.Context) { wait.UntilWithContext(ctx, w.look, interval) }

// look asks about everything that is suspected, and tells what is new.
func (w *Watch) look(ctx context.Context) {
	w.mu.Lock()
	suspected := make([]request, 0, len(w.suspected))
	for _, r := range w.suspected {
		suspected = append(suspected, r)
	}
	w.mu.Unlock()
	var lost []string
	for _, r := range suspected {
		allowed, err := w.ask(ctx, r)
		if err != nil {
			continue // no answer is no news: the next look asks again
		}
		if w.note(r.right, allowed) {
			lost = append(lost, r.String())
		}
	}
	slices.Sort(lost)
	if len(lost) > 0 {
		w.log.Error(errors.New("forbidden"), "the operator lacks rights; what needs them waits", "missing", lost, "toRestore", cure)
	}
}

// ask has the API server say whether the operator may do this.
func (w *Watch) ask(ctx context.Context, r request) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	review, err := w.reviews.Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: r.verb, Group: r.group, Resource: r.resource, Subresource: r.subresource, Namespace: r.namespace, Name: r.name,
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

// note says whether the right is newly missing.
func (w *Watch) note(r right, allowed bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.missing[r]
	if !allowed {
		w.missing[r] = true
		w.metric.vec.WithLabelValues(r.verb, r.object()).Set(1)
		return !was
	}
	delete(w.suspected, r)
	if was {
		delete(w.missing, r)
		w.metric.vec.DeleteLabelValues(r.verb, r.object())
		if len(w.missing) == 0 {
			w.log.Info("the operator has its rights again")
		}
	}
	return false
}

// Ready is a check for /readyz: an error that names the rights that are missing.
func (w *Watch) Ready(*http.Request) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.missing) == 0 {
		return nil
	}
	names := make([]string, 0, len(w.missing))
	for r := range w.missing {
		names = append(names, r.String())
	}
	slices.Sort(names)
	return fmt.Errorf("the operator may not %s", strings.Join(names, ", "))
}

// verbs of requests that change something; a DELETE without a name is of a collection.
var verbs = map[string]string{http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}

// parse is the right that a request needs; false for one that is about no resource.
func parse(r *http.Request) (request, bool) {
	// A proxy in front may have put a path of its own before the API's.
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	start := slices.IndexFunc(parts, func(p string) bool { return p == "api" || p == "apis" })
	if start < 0 {
		return request{}, false
	}
	var out request
	if parts[start] == "apis" {
		if len(parts) < start+2 {
			return request{}, false
		}
		start++
		out.group = parts[start]
	}
	parts = parts[min(start+2, len(parts)):] // behind the version
	if len(parts) > 2 && parts[0] == "namespaces" {
		out.namespace, parts = parts[1], parts[2:]
	}
	for i, into := range []*string{&out.resource, &out.name, &out.subresource} {
		if i < len(parts) {
			*into = parts[i]
		}
	}
	switch out.verb = verbs[r.Method]; {
	case r.Method == http.MethodGet && r.URL.Query().Get("watch") != "":
		out.verb = "watch"
	case r.Method == http.MethodGet && out.name == "":
		out.verb = "list"
	case r.Method == http.MethodGet:
		out.verb = "get"
	}
	return out, out.resource != "" && out.verb != ""
}
