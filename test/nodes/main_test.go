package nodes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
)

const (
	// limit is how long anything may take on a busy machine.
	limit = 60 * time.Second
	// collected is how long Kubernetes may take to remove a pod whose node is gone: it looks every 20 s, and waits 40 s for the node.
	collected = 120 * time.Second
)

var (
	server     *fixture.APIServer
	kubeconfig string
)

func TestMain(m *testing.M) {
	fixture.Main("what follows from a node", "make test-drains", func() (int, error) { return fixture.InFolder(func(dir string) (int, error) { return run(m, dir) }) })
}

func run(m *testing.M, dir string) (code int, err error) {
	if server, err = fixture.StartAPIServer(); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	kubeconfig = filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, server.Kubeconfig(), 0o600); err != nil {
		return 1, err
	}
	stop, err := startControllers(dir)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return m.Run(), nil
}

// startControllers runs those of Kubernetes' controllers that matter here: disruption budgets and the removal of pods whose node is gone.
func startControllers(dir string) (stop func() error, err error) {
	log, err := os.Create(filepath.Join(dir, "controllers.log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(fixture.Assets(), "kube-controller-manager"), "--kubeconfig="+kubeconfig, "--leader-elect=false",
		"--controllers=disruption-controller,pod-garbage-collector-controller", "--secure-port=0")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() error {
		kill := cmd.Process.Kill()
		_ = cmd.Wait() // it says that it was killed
		return errors.Join(kill, log.Close())
	}, nil
}

// scene is one test's namespace with nodes, an operator and a kubelet of its own.
type scene struct {
	t         *testing.T
	ctx       context.Context
	namespace string
	nodes     []string
}

// begin makes a scene with so many nodes. Pods come to the first of them that takes any.
func begin(t *testing.T, nodes int, options ...func(*fixture.OperatorOptions)) *scene {
	t.Helper()
	t.Parallel()
	s := &scene{t: t, ctx: t.Context()}
	var err error
	s.namespace, err = server.Namespace(s.ctx, strings.ToLower(strings.TrimPrefix(t.Name(), "Test")))
	s.must(err)
	for n := range nodes {
		s.nodes = append(s.nodes, fmt.Sprintf("%s-%c", s.namespace, 'a'+n))
	}
	kubelet, err := standin.StartKubelet(server.Config, s.namespace, s.nodes...)
	s.must(err)
	o := fixture.OperatorOptions{Namespace: s.namespace}
	for _, option := range options {
		option(&o)
	}
	operator, err := fixture.StartOperator(server.Config, o)
	s.must(err)
	t.Cleanup(func() {
		if err := errors.Join(operator.Stop(), kubelet.Stop()); err != nil {
			t.Errorf("operator and kubelet: %v", err)
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

// pool creates a pool whose drains take a second, and waits until it is Ready.
func (s *scene) pool(edits ...func(*v1alpha1.WorkerPool)) *v1alpha1.WorkerPool {
	s.t.Helper()
	pool := fixture.NewPool(s.namespace, "demo", 1)
	pool.Spec.Drain.Timeout = &metav1.Duration{Duration: time.Second}
	for _, edit := range edits {
		edit(pool)
	}
	s.must(server.Client.Create(s.ctx, pool))
	s.ready(pool)
	return pool
}

// undrained makes a pool whose router never reports that a drain is complete.
func undrained(p *v1alpha1.WorkerPool) {
	p.Spec.Image = "registry.example/" + standin.ImageUndrained + ":1"
}

func (s *scene) change(pool *v1alpha1.WorkerPool, edit func(*v1alpha1.WorkerPool)) {
	s.t.Helper()
	fixture.Change(s.t, server.Client, limit, pool, edit)
}

// expect waits for a condition with this status, reason and text in its message.
func (s *scene) expect(pool *v1alpha1.WorkerPool, kind string, status metav1.ConditionStatus, reason, text string) {
	s.t.Helper()
	fixture.ExpectCondition(s.t, server.Client, limit, pool, metav1.Condition{Type: kind, Status: status, Reason: reason, Message: text})
}

// ready waits until the pool is Ready and nothing is left to be made.
func (s *scene) ready(pool *v1alpha1.WorkerPool) {
	s.t.Helper()
	s.expect(pool, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonWorkersReady, "")
	s.without(pool, v1alpha1.ConditionReconciling, limit)
}

// without waits until the pool does not have the condition.
func (s *scene) without(pool *v1alpha1.WorkerPool, kind string, limit time.Duration) {
	s.t.Helper()
	fixture.Eventually(s.t, limit, "no "+kind, func() error {
		if err := server.Client.Get(s.ctx, client.ObjectKeyFromObject(pool), pool); err != nil {
			return err
		}
		if meta.FindStatusCondition(pool.Status.Conditions, kind) != nil {
			return fmt.Errorf("conditions: %s", fixture.Conditions(pool.Status.Conditions))
		}
		return nil
	})
}

func (s *scene) pods() []corev1.Pod {
	s.t.Helper()
	var list corev1.PodList
	s.must(server.Client.List(s.ctx, &list, client.InNamespace(s.namespace)))
	return list.Items
}

// served waits until exactly one pod serves, on the node, and nothing of the namespace ever has two that do.
func (s *scene) served(node string) *corev1.Pod {
	s.t.Helper()
	var one *corev1.Pod
	fixture.Eventually(s.t, limit, "a pod that serves on "+node, func() error {
		one = nil
		for _, pod := range s.pods() {
			if pod.Labels[v1alpha1.LabelServing] != "true" {
				continue
			}
			if one != nil {
				s.t.Fatalf("pods %s and %s serve at the same time", one.Name, pod.Name)
			}
			one = pod.DeepCopy()
		}
		if one == nil || one.Spec.NodeName != node || one.DeletionTimestamp != nil {
			return fmt.Errorf("pod %+v", one)
		}
		return nil
	})
	return one
}

func (s *scene) groups() []v1alpha1.WorkerGroup {
	s.t.Helper()
	var list v1alpha1.WorkerGroupList
	s.must(server.Client.List(s.ctx, &list, client.InNamespace(s.namespace)))
	return list.Items
}

// node changes a node object.
func (s *scene) node(name string, edit func(*corev1.Node)) {
	s.t.Helper()
	fixture.Change(s.t, server.Client, limit, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, edit)
}

func (s *scene) cordon(name string, yes bool) {
	s.t.Helper()
	s.node(name, func(n *corev1.Node) { n.Spec.Unschedulable = yes })
}

// report writes whether a node is Ready, as from some time ago.
func (s *scene) report(name string, status corev1.ConditionStatus, ago time.Duration) {
	s.t.Helper()
	since := metav1.NewTime(time.Now().Add(-ago).Truncate(time.Second))
	s.must(standin.SetNodeReady(s.ctx, server.Client, name, status, since))
}

// event waits for an Event about the pool with this reason and text.
func (s *scene) event(reason, text string) {
	s.t.Helper()
	fixture.Eventually(s.t, limit, "Event "+reason, func() error {
		var list eventsv1.EventList
		if err := server.Client.List(s.ctx, &list, client.InNamespace(s.namespace)); err != nil {
			return err
		}
		said := ""
		for _, e := range list.Items {
			if e.Reason == reason && e.Regarding.Kind == "WorkerPool" && strings.Contains(e.Note, text) {
				return nil
			}
			said += fmt.Sprintf("%s: %s\n", e.Reason, e.Note)
		}
		return fmt.Errorf("there are:\n%s", said)
	})
}

// gone deletes the pool and waits until nothing is left.
func (s *scene) gone(pool *v1alpha1.WorkerPool) {
	s.t.Helper()
	s.must(server.Client.Delete(s.ctx, pool))
	fixture.ExpectGone(s.t, server.Client, limit, pool)
	fixture.ExpectNothingLeft(s.t, server.Client, s.namespace)
}
