package leader

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
	"github.com/snakepit-k8s/snakepit/test/fixture/wire"
)

// limit is how long anything may take on a busy machine.
const limit = 60 * time.Second

// short leases make a sample quick; long enough for a busy machine to renew them.
var short = []string{"--leader-elect-lease-duration=6s", "--leader-elect-renew-deadline=4s", "--leader-elect-retry-period=500ms"}

// world is one test's namespace with two operators: first leads, second waits.
type world struct {
	t             *testing.T
	ctx           context.Context
	namespace     string
	lease         []string
	gate          *wire.Gate // the first operator's way to the API server
	first, second *fixture.Program
	leader        string // the first one's name in the lease
	seen          *audit
}

func begin(t *testing.T, prefix string, lease []string) *world {
	t.Helper()
	w := &world{t: t, ctx: t.Context(), lease: lease}
	var err error
	w.namespace, err = server.Namespace(w.ctx, prefix)
	w.must(err)
	kubelet, err := standin.StartKubelet(server.Config, w.namespace)
	w.must(err)
	t.Cleanup(func() {
		if err := kubelet.Stop(); err != nil {
			t.Errorf("kubelet: %v", err)
		}
	})
	w.seen = watch(t, w.namespace)
	w.gate, err = wire.OpenGate(server.Config)
	w.must(err)
	t.Cleanup(w.gate.Close)
	w.first = w.start("first", w.gate)
	w.leader = w.newHolder("")
	behind, err := wire.OpenGate(server.Config)
	w.must(err)
	t.Cleanup(behind.Close)
	w.second = w.start("second", behind)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) start(name string, through *wire.Gate) *fixture.Program {
	w.t.Helper()
	dir := w.t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	w.must(fixture.Kubeconfig(kubeconfig, through.URL))
	p, err := fixture.StartOperatorProgram(binary, dir, name, kubeconfig, w.namespace,
		append([]string{"--leader-elect", "--sweep-interval=2s", "--leader-elect-resource-namespace=" + w.namespace}, w.lease...)...)
	w.must(err)
	w.t.Cleanup(func() {
		_ = p.Signal(syscall.SIGCONT) // a stopped process ends only by SIGKILL, which Kill sends
		p.Kill()
		if said, err := os.ReadFile(p.Log); w.t.Failed() && err == nil {
			w.t.Logf("%s said:\n%s", name, said[max(0, len(said)-3000):])
		}
	})
	return p
}

// newHolder waits until somebody other than this one holds the lease.
func (w *world) newHolder(other string) string {
	w.t.Helper()
	var holder string
	fixture.Eventually(w.t, limit, "a leader other than "+other, func() error {
		var lease coordinationv1.Lease
		if err := server.Client.Get(w.ctx, types.NamespacedName{Namespace: w.namespace, Name: "snakepit-operator"}, &lease); err != nil {
			return err
		}
		if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" || *lease.Spec.HolderIdentity == other {
			return fmt.Errorf("the lease is %+v", lease.Spec)
		}
		holder = *lease.Spec.HolderIdentity
		return nil
	})
	return holder
}

func (w *world) create(name string) *v1alpha1.WorkerPool {
	w.t.Helper()
	pool := fixture.NewPool(w.namespace, name, 2)
	pool.Spec.Drain.Timeout = &metav1.Duration{Duration: time.Second}
	w.must(server.Client.Create(w.ctx, pool))
	return pool
}

func (w *world) change(pool *v1alpha1.WorkerPool, edit func(*v1alpha1.WorkerPool)) {
	w.t.Helper()
	fixture.Change(w.t, server.Client, limit, pool, edit)
}

// replace deletes the pool, waits for its end and makes another one of its name.
func (w *world) replace(pool *v1alpha1.WorkerPool) *v1alpha1.WorkerPool {
	w.t.Helper()
	w.remove(pool)
	return w.create(pool.Name)
}

func (w *world) remove(pool *v1alpha1.WorkerPool) {
	w.t.Helper()
	w.must(client.IgnoreNotFound(server.Client.Delete(w.ctx, pool)))
	fixture.ExpectGone(w.t, server.Client, limit, pool)
}

// reached waits until the pool is Ready with its own image, and nothing is left to do.
func (w *world) reached(pool *v1alpha1.WorkerPool) {
	w.t.Helper()
	fixture.Eventually(w.t, limit, "pool "+pool.Name+" Ready", func() error {
		if err := server.Client.Get(w.ctx, client.ObjectKeyFromObject(pool), pool); err != nil {
			return err
		}
		ready := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReady)
		busy := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReconciling) != nil
		if ready == nil || ready.Status != metav1.ConditionTrue || ready.ObservedGeneration != pool.Generation || busy {
			return fmt.Errorf("conditions: %s", fixture.Conditions(pool.Status.Conditions))
		}
		return w.whole(pool)
	})
}

// whole says whether the pool has exactly one group and one pod, of its own UID and image.
func (w *world) whole(pool *v1alpha1.WorkerPool) error {
	var groups v1alpha1.WorkerGroupList
	var pods corev1.PodList
	own := client.MatchingLabels{v1alpha1.LabelPoolUID: string(pool.UID)}
	if err := server.Client.List(w.ctx, &groups, client.InNamespace(w.namespace), own); err != nil {
		return err
	}
	if err := server.Client.List(w.ctx, &pods, client.InNamespace(w.namespace), own); err != nil {
		return err
	}
	if len(groups.Items) != 1 || len(pods.Items) != 1 {
		return fmt.Errorf("pool %s has %d groups and %d pods", pool.Name, len(groups.Items), len(pods.Items))
	}
	for _, c := range pods.Items[0].Spec.Containers {
		if c.Name == v1alpha1.WorkerContainer && c.Image != pool.Spec.Image {
			return fmt.Errorf("pod %s runs %s, want %s", pods.Items[0].Name, c.Image, pool.Spec.Image)
		}
	}
	return nil
}
