package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
)

// limit is how long anything may take on a busy machine.
const limit = 30 * time.Second

var server *fixture.APIServer

func TestMain(m *testing.M) {
	fixture.Main("the life of a pool", "make test-apiserver", func() (code int, err error) {
		if server, err = fixture.StartAPIServer(); err != nil {
			return 1, err
		}
		code = m.Run()
		if err := server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return code, nil
	})
}

// scene is one test's namespace with an operator and a kubelet of its own.
type scene struct {
	t         *testing.T
	ctx       context.Context
	namespace string
	operator  *fixture.Operator
	recorder  *fixture.Recorder
}

func begin(t *testing.T) *scene {
	t.Helper()
	s := beginAlone(t)
	kubelet, err := standin.StartKubelet(server.Config, s.namespace)
	s.must(err)
	s.start()
	t.Cleanup(func() {
		s.stop()
		if err := kubelet.Stop(); err != nil {
			t.Errorf("kubelet: %v", err)
		}
	})
	return s
}

// beginAlone is a namespace with a recorder, and without operator and kubelet.
func beginAlone(t *testing.T) *scene {
	t.Helper()
	t.Parallel()
	s := &scene{t: t, ctx: t.Context()}
	prefix := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	var err error
	s.namespace, err = server.Namespace(s.ctx, prefix)
	s.must(err)
	s.recorder, err = fixture.StartRecorder(server.Config, s.namespace)
	s.must(err)
	t.Cleanup(func() {
		s.recorder.Stop()
		if err := s.recorder.Lies(); err != nil {
			t.Errorf("what was said and was not so:\n%v", err)
		}
	})
	return s
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) start() {
	s.t.Helper()
	var err error
	s.operator, err = fixture.StartOperator(server.Config, fixture.OperatorOptions{Namespace: s.namespace})
	s.must(err)
}

func (s *scene) stop() {
	s.t.Helper()
	if s.operator == nil {
		return
	}
	if err := s.operator.Stop(); err != nil {
		s.t.Errorf("operator: %v", err)
	}
	s.operator = nil
}

// pool creates a pool; image words of the fixture choose how its pod behaves.
func (s *scene) pool(name string, workers int32, edits ...func(*v1alpha1.WorkerPool)) *v1alpha1.WorkerPool {
	s.t.Helper()
	pool := fixture.NewPool(s.namespace, name, workers)
	pool.Spec.Drain.Timeout = &metav1.Duration{Duration: time.Second}
	for _, edit := range edits {
		edit(pool)
	}
	s.must(server.Client.Create(s.ctx, pool))
	return pool
}

func image(word string) func(*v1alpha1.WorkerPool) {
	return func(p *v1alpha1.WorkerPool) { p.Spec.Image = "registry.example/" + word + ":1" }
}

func (s *scene) get(obj client.Object) error {
	return server.Client.Get(s.ctx, client.ObjectKeyFromObject(obj), obj)
}

func (s *scene) change(pool *v1alpha1.WorkerPool, edit func(*v1alpha1.WorkerPool)) {
	s.t.Helper()
	fixture.Change(s.t, server.Client, limit, pool, edit)
}

// expect waits for a condition of the current generation, with this status, reason and text in its message.
func (s *scene) expect(pool *v1alpha1.WorkerPool, kind string, status metav1.ConditionStatus, reason, text string) {
	s.t.Helper()
	fixture.ExpectCondition(s.t, server.Client, limit, pool, metav1.Condition{Type: kind, Status: status, Reason: reason, Message: text})
}

// ready waits until the pool is Ready, and nothing is left to do for its generation.
func (s *scene) ready(pool *v1alpha1.WorkerPool) {
	s.t.Helper()
	fixture.Eventually(s.t, limit, "pool Ready", func() error {
		if err := s.get(pool); err != nil {
			return err
		}
		c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReady)
		settled := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReconciling) == nil
		if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != pool.Generation || pool.Status.ReadyWorkers != pool.Spec.Workers || !settled {
			return fmt.Errorf("%s ready, conditions: %s", pool.Status.ReadySummary, fixture.Conditions(pool.Status.Conditions))
		}
		return nil
	})
}

// pods are those of the pool that are not being deleted.
func (s *scene) pods(pool *v1alpha1.WorkerPool) []corev1.Pod {
	s.t.Helper()
	var list corev1.PodList
	s.must(server.Client.List(s.ctx, &list, client.InNamespace(s.namespace), client.MatchingLabels{v1alpha1.LabelPool: pool.Name}))
	var live []corev1.Pod
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil {
			live = append(live, pod)
		}
	}
	return live
}

func (s *scene) onlyPod(pool *v1alpha1.WorkerPool) corev1.Pod {
	s.t.Helper()
	pods := s.pods(pool)
	if len(pods) != 1 {
		s.t.Fatalf("pool %s has %d pods, want 1", pool.Name, len(pods))
	}
	return pods[0]
}

func (s *scene) group(pool *v1alpha1.WorkerPool) *v1alpha1.WorkerGroup {
	s.t.Helper()
	var list v1alpha1.WorkerGroupList
	s.must(server.Client.List(s.ctx, &list, client.InNamespace(s.namespace), client.MatchingLabels{v1alpha1.LabelPool: pool.Name}))
	if len(list.Items) != 1 {
		s.t.Fatalf("pool %s has %d groups, want 1", pool.Name, len(list.Items))
	}
	return &list.Items[0]
}

// gone waits until the pool is gone and looks that nothing is left.
func (s *scene) gone(pool *v1alpha1.WorkerPool) {
	s.t.Helper()
	fixture.ExpectGone(s.t, server.Client, limit, pool)
	fixture.ExpectNothingLeft(s.t, server.Client, s.namespace)
}

// serverContext is for properties, which have no context of their own.
var serverContext = context.Background()

func fieldPath(dotted string) []string { return strings.Split(dotted, ".") }

func mergePatch(t *testing.T, change map[string]any) client.Patch {
	t.Helper()
	raw, err := json.Marshal(change)
	if err != nil {
		t.Fatal(err)
	}
	return client.RawPatch(types.MergePatchType, raw)
}

// environment is a variable of the worker container; empty when it is not there.
func environment(pod corev1.Pod, name string) string {
	for _, c := range pod.Spec.Containers {
		for _, e := range c.Env {
			if c.Name == v1alpha1.WorkerContainer && e.Name == name {
				return e.Value
			}
		}
	}
	return ""
}
