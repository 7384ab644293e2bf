package nodes

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// A group on a node that is cordoned drains, and its successor comes to another one. To take the cordon away changes nothing any more.
func TestCordon(t *testing.T) {
	s := begin(t, 2)
	pool := s.pool(undrained, func(p *v1alpha1.WorkerPool) { p.Spec.Drain.Timeout = &metav1.Duration{Duration: 4 * time.Second} })
	old := s.served(s.nodes[0])
	s.cordon(s.nodes[0], true)
	s.expect(pool, v1alpha1.ConditionDraining, metav1.ConditionTrue, v1alpha1.ReasonDraining, "(NodeDrained: node "+s.nodes[0]+")")
	s.cordon(s.nodes[0], false)
	s.cordon(s.nodes[1], true) // the only way back is the first node
	s.event(v1alpha1.EventDrainStarted, "NodeDrained")
	s.event(v1alpha1.EventDrainTimeout, "about 0 sessions and 0 busy workers are left and end now")
	if next := s.served(s.nodes[0]); next.UID == old.UID {
		t.Error("the group was not replaced: a drain keeps to its mark")
	}
	s.ready(pool)
	s.gone(pool)
}

// kubectl drain itself ends within drain.timeout and the pod's end: the eviction is refused while the group serves, and the operator does the rest.
func TestKubectlDrain(t *testing.T) {
	s := begin(t, 2)
	pool := s.pool(undrained, func(p *v1alpha1.WorkerPool) { p.Spec.Drain.Timeout = &metav1.Duration{Duration: 3 * time.Second} })
	old := s.served(s.nodes[0])
	s.guarded(old)
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	drain := exec.CommandContext(ctx, filepath.Join(fixture.Assets(), "kubectl"), "--kubeconfig="+kubeconfig,
		"drain", s.nodes[0], "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=50s")
	out, err := drain.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "node/"+s.nodes[0]+" drained") {
		t.Fatalf("kubectl drain: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "would violate the pod's disruption budget") {
		t.Errorf("the eviction was not refused before the drain ended:\n%s", out)
	}
	s.event(v1alpha1.EventDrainTimeout, "end now")
	s.served(s.nodes[1])
	s.ready(pool)
}

// guarded waits until the API server refuses to evict the pod for its budget.
func (s *scene) guarded(pod *corev1.Pod) {
	s.t.Helper()
	fixture.Eventually(s.t, limit, "the budget is computed", func() error {
		budget := &policyv1.PodDisruptionBudget{}
		if err := server.Client.Get(s.ctx, types.NamespacedName{Namespace: s.namespace, Name: "demo"}, budget); err != nil {
			return err
		}
		if st := budget.Status; st.ObservedGeneration != budget.Generation || st.CurrentHealthy != 1 || st.DesiredHealthy != 1 {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	eviction := &policyv1.Eviction{DeleteOptions: &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}}
	if err := server.Client.SubResource("eviction").Create(s.ctx, pod, eviction); !apierrors.IsTooManyRequests(err) {
		s.t.Errorf("evicting a pod that serves: %v, want it refused", err)
	}
}

// With one node the successor has no place, says so, and comes when the node takes pods again.
func TestCordonOnlyNode(t *testing.T) {
	s := begin(t, 1)
	pool := s.pool()
	s.cordon(s.nodes[0], true)
	s.expect(pool, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonUnschedulable, "no node fits pod")
	s.cordon(s.nodes[0], false)
	s.served(s.nodes[0])
	s.ready(pool)
	s.gone(pool)
}

// A pod that tolerates the cordon is left alone: its successor would come to the same node again, and again.
func TestCordonTolerated(t *testing.T) {
	s := begin(t, 1)
	pool := s.pool(func(p *v1alpha1.WorkerPool) {
		p.Spec.Template = &v1alpha1.PodTemplate{Spec: &v1alpha1.PodTemplateSpec{Tolerations: []corev1.Toleration{
			{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists}}}}
	})
	s.untouched(pool, func() { s.cordon(s.nodes[0], true) })
}

// untouched does something about which the operator shall do nothing, and then something that shows that it has looked.
func (s *scene) untouched(pool *v1alpha1.WorkerPool, do func()) {
	s.t.Helper()
	before := s.groups()
	do()
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.Workers++ })
	s.ready(pool)
	after := s.groups()
	if len(before) != 1 || len(after) != 1 || after[0].UID != before[0].UID || after[0].Spec.DrainRequest != nil {
		s.t.Errorf("groups before %d, after %+v; want the same one", len(before), after)
	}
}

// The annotation drains the pool for as long as it is there.
func TestDrainAnnotation(t *testing.T) {
	s := begin(t, 1)
	pool := s.pool()
	old := s.served(s.nodes[0])
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Annotations = map[string]string{v1alpha1.AnnotationDrain: "new racks"} })
	s.expect(pool, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonDrained, `("new racks"). For a fresh group: kubectl annotate wpool demo snakepit.dev/drain-`)
	s.without(pool, v1alpha1.ConditionReconciling, limit)
	s.event(v1alpha1.EventDrainStarted, "Requested: new racks")
	if pods := s.pods(); len(pods) != 0 {
		t.Errorf("drained, with %d pods", len(pods))
	}
	// A change of what the pod is made from starts nothing, either.
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.Image = "registry.example/works:2" })
	s.expect(pool, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonDrained, "drained at request")
	if groups := s.groups(); len(groups) != 0 {
		t.Errorf("drained, with %d groups", len(groups))
	}
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Annotations = nil })
	if next := s.served(s.nodes[0]); next.UID == old.UID || next.Spec.Containers[0].Image != "registry.example/works:2" {
		t.Errorf("pod %s with image %s", next.Name, next.Spec.Containers[0].Image)
	}
	s.ready(pool)
	s.gone(pool)
}

// With Hold the group stays past its deadline for as long as something is left; Terminate ends it.
func TestHold(t *testing.T) {
	s := begin(t, 2)
	pool := s.pool(undrained, func(p *v1alpha1.WorkerPool) { p.Spec.Drain.OnDeadline = v1alpha1.DrainHold })
	old := s.served(s.nodes[0])
	s.cordon(s.nodes[0], true)
	s.expect(pool, v1alpha1.ConditionDraining, metav1.ConditionTrue, v1alpha1.ReasonDrainHeld, "kubectl patch wpool demo --type merge -p")
	if held := s.served(s.nodes[0]); held.UID != old.UID {
		t.Errorf("pod %s became %s", old.UID, held.UID)
	}
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.Drain.OnDeadline = v1alpha1.DrainTerminate })
	s.served(s.nodes[1])
	s.ready(pool)
	s.event(v1alpha1.EventDrainTimeout, "end now")
}

// A pool that is deleted while a drain of it is held ends within drain.timeout.
func TestHeldThenDeleted(t *testing.T) {
	s := begin(t, 1)
	pool := s.pool(undrained, func(p *v1alpha1.WorkerPool) { p.Spec.Drain.OnDeadline = v1alpha1.DrainHold })
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Annotations = map[string]string{v1alpha1.AnnotationDrain: ""} })
	s.expect(pool, v1alpha1.ConditionDraining, metav1.ConditionTrue, v1alpha1.ReasonDrainHeld, "(Requested)")
	s.gone(pool)
}

// The budget is the pool's child: made, repaired, and away for a pool without workers.
func TestBudget(t *testing.T) {
	s := begin(t, 1)
	pool := s.pool()
	key := types.NamespacedName{Namespace: s.namespace, Name: "demo"}
	asItShall := func() error {
		b := &policyv1.PodDisruptionBudget{}
		if err := server.Client.Get(s.ctx, key, b); err != nil {
			return err
		}
		if b.Spec.MinAvailable == nil || *b.Spec.MinAvailable != intstr.FromInt32(1) || b.Spec.MaxUnavailable != nil ||
			ptr.Deref(b.Spec.UnhealthyPodEvictionPolicy, policyv1.IfHealthyBudget) != policyv1.AlwaysAllow || b.Spec.Selector.MatchLabels[v1alpha1.LabelPoolUID] != string(pool.UID) ||
			b.Spec.Selector.MatchLabels[v1alpha1.LabelServing] != "true" || !metav1.IsControlledBy(b, pool) {
			return fmt.Errorf("spec %+v", b.Spec)
		}
		return nil
	}
	s.must(asItShall())
	drift := func(what string, edit func(*policyv1.PodDisruptionBudget)) {
		b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
		fixture.Change(t, server.Client, limit, b, edit) // its status is Kubernetes' to write
		fixture.Eventually(t, limit, "the budget is as it shall be, after "+what, asItShall)
	}
	drift("another number", func(b *policyv1.PodDisruptionBudget) { b.Spec.MinAvailable = ptr.To(intstr.FromInt32(3)) })
	drift("the other kind of limit", func(b *policyv1.PodDisruptionBudget) {
		b.Spec.MinAvailable, b.Spec.MaxUnavailable = nil, ptr.To(intstr.FromInt32(0))
	})
	drift("no policy", func(b *policyv1.PodDisruptionBudget) { b.Spec.UnhealthyPodEvictionPolicy = nil })
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.Workers = 0 })
	fixture.Eventually(t, limit, "no budget without workers", func() error {
		if err := server.Client.Get(s.ctx, key, &policyv1.PodDisruptionBudget{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %w", err)
		}
		return nil
	})
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.Workers = 2 })
	fixture.Eventually(t, limit, "the budget is back", asItShall)
	s.gone(pool)
}

// An operator that may not see nodes makes no budget and leaves cordoned nodes alone.
func TestWithoutNodes(t *testing.T) {
	s := begin(t, 1, func(o *fixture.OperatorOptions) { o.IgnoreNodes = true })
	pool := s.pool()
	s.untouched(pool, func() {
		s.cordon(s.nodes[0], true)
	})
	var budgets policyv1.PodDisruptionBudgetList
	s.must(server.Client.List(s.ctx, &budgets, client.InNamespace(s.namespace)))
	if len(budgets.Items) != 0 {
		t.Errorf("%d budgets", len(budgets.Items))
	}
	s.gone(pool)
}
