package apiserver

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/catchup"
	"github.com/snakepit-k8s/snakepit/controllers/sweep"
	"github.com/snakepit-k8s/snakepit/controllers/writer"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// Children without owner references (kubectl delete --cascade=orphan takes them away) are still the pool's, by their labels.
func TestOrphanedGroup(t *testing.T) {
	s := begin(t)
	pool := s.pool("orphan", 1)
	s.ready(pool)
	s.stop()
	fixture.Change(t, server.Client, limit, s.group(pool), func(g *v1alpha1.WorkerGroup) { g.OwnerReferences = nil })
	s.must(server.Client.Delete(s.ctx, pool))
	s.start()
	s.gone(pool)
}

// An owner reference or a label that somebody took away is put back.
func TestOwnerReferenceIsRepaired(t *testing.T) {
	s := begin(t)
	pool := s.pool("owned", 1)
	s.ready(pool)
	fixture.Change(t, server.Client, limit, s.group(pool), func(g *v1alpha1.WorkerGroup) { g.OwnerReferences = nil })
	fixture.Eventually(t, limit, "the owner is back", func() error {
		if owner := metav1.GetControllerOf(s.group(pool)); owner == nil || owner.UID != pool.UID {
			return fmt.Errorf("owner %v", owner)
		}
		return nil
	})
}

// A pod of our name that is not ours is never adopted; the group says so, and goes on when it is gone.
func TestForeignPod(t *testing.T) {
	s := begin(t)
	pool := s.pool("foreign", 1)
	s.ready(pool)
	s.stop()
	old := s.onlyPod(pool)
	s.must(server.Client.Delete(s.ctx, &old))
	// The name that the next pod of the group will have.
	name := strings.TrimSuffix(old.Name, "-0") + "-1"
	foreign := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	s.must(server.Client.Create(s.ctx, foreign.DeepCopy()))
	s.start()
	s.expect(pool, v1alpha1.ConditionStalled, metav1.ConditionTrue, v1alpha1.ReasonNameTaken, "pod "+name+" exists and is not this group's")
	s.must(server.Client.Delete(s.ctx, foreign))
	s.ready(pool)
	s.must(server.Client.Delete(s.ctx, pool))
	s.gone(pool)
}

// In a namespace that is going away nothing can be made, and what is there still goes in order.
func TestNamespaceTerminating(t *testing.T) {
	s := begin(t)
	pool := s.pool("ending", 1)
	s.ready(pool)
	s.must(server.Client.Delete(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}))
	fixture.Eventually(t, limit, "the namespace refuses new objects", func() error {
		err := server.Client.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "x"}}, client.DryRunAll)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return fmt.Errorf("got %w", err)
	})
	pod := s.onlyPod(pool)
	s.must(server.Client.Delete(s.ctx, &pod))
	s.must(server.Client.Delete(s.ctx, s.group(pool)))
	s.must(server.Client.Delete(s.ctx, pool))
	s.gone(pool)
}

// The sweep removes what a pool left that was removed by force, and nothing else.
func TestSweep(t *testing.T) {
	s := begin(t)
	kept, lost := s.pool("kept", 1), s.pool("lost", 1)
	s.ready(kept)
	s.ready(lost)
	s.stop()
	s.must(server.Client.Delete(s.ctx, lost))
	s.change(lost, func(p *v1alpha1.WorkerPool) { p.Finalizers = nil })
	sweeper := &sweep.Sweeper{Writer: &writer.Writer{Client: client.NewNamespacedClient(server.Client, s.namespace), Live: server.Client, Ledger: catchup.NewLedger(clock.RealClock{})}, Clock: clock.RealClock{}}
	// A group, a Service, an account, a role and its binding; the group's own pod goes with the group.
	if n, err := sweeper.Sweep(s.ctx); err != nil || n != 5 {
		t.Errorf("removed %d (%v), want 5", n, err)
	}
	s.start()
	fixture.Eventually(t, limit, "nothing of the lost pool", func() error {
		left, err := fixture.Leftovers(s.ctx, server.Client, s.namespace)
		for _, one := range left {
			if strings.Contains(one, "lost") {
				return fmt.Errorf("%s is left", one)
			}
		}
		return err
	})
	s.ready(kept)
}

// writes counts what an operator sends that is no read.
type writes struct {
	mu  sync.Mutex
	all map[string]int
}

func (w *writes) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Method != http.MethodGet {
			parts := strings.Split(r.URL.Path, "/")
			w.mu.Lock()
			what := r.Method + " " + parts[len(parts)-1]
			for i, part := range parts {
				if part == "namespaces" && len(parts) > i+2 {
					what = r.Method + " " + parts[i+2]
				}
			}
			if strings.HasSuffix(r.URL.Path, "/status") {
				what += "/status"
			}
			w.all[what]++
			w.mu.Unlock()
		}
		return next.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The operator's writes in a pool's whole life: what it costs, and that each object is made exactly once.
func TestWritesOfALife(t *testing.T) {
	s := begin(t)
	s.stop()
	w := &writes{all: map[string]int{}}
	var err error
	s.operator, err = fixture.StartOperator(server.Config, fixture.OperatorOptions{Namespace: s.namespace, WrapTransport: w.wrap})
	s.must(err)
	pool := s.pool("life", 2)
	s.ready(pool)
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.Workers = 5 })
	s.ready(pool)
	s.must(server.Client.Delete(s.ctx, pool))
	s.gone(pool)
	w.mu.Lock()
	defer w.mu.Unlock()
	total := 0
	for what, n := range w.all {
		if !strings.Contains(what, "events") {
			total += n
		}
	}
	t.Logf("figure: API writes of a pool's life (create, scale, delete): %d without Events: %v", total, w.all)
	for _, kind := range []string{"workergroups", "pods", "services", "serviceaccounts", "roles", "rolebindings"} {
		if w.all["POST "+kind] != 1 || w.all["DELETE "+kind] != 1 {
			t.Errorf("%s: %d made, %d deleted, want one each", kind, w.all["POST "+kind], w.all["DELETE "+kind])
		}
	}
}
