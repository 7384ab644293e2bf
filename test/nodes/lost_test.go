package nodes

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// lose makes the first node stay away for longer than failover.after and waits for the successor on the second one.
func (s *scene) lose(pool *v1alpha1.WorkerPool) (old, next *corev1.Pod) {
	s.t.Helper()
	old = s.served(s.nodes[0])
	s.report(s.nodes[0], corev1.ConditionUnknown, 2*time.Minute)
	next = s.served(s.nodes[1])
	s.event(v1alpha1.EventNodeLost, "node "+s.nodes[0]+" is not Ready since")
	s.ready(pool)
	s.expect(pool, v1alpha1.ConditionDraining, metav1.ConditionTrue, v1alpha1.ReasonNodeLost, "was lost with node "+s.nodes[0]+" and may still run there")
	if c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionStalled); c != nil {
		s.t.Errorf("a pool that serves is Stalled: %s", c.Message)
	}
	if err := server.Client.Get(s.ctx, client.ObjectKeyFromObject(old), old); err != nil || old.DeletionTimestamp == nil {
		s.t.Fatalf("the old pod: %v, deleted at %s; want it deleted, and there until its end is proven", err, old.DeletionTimestamp)
	}
	if groups := s.groups(); len(groups) != 2 {
		s.t.Fatalf("%d groups, want the lost one and its successor", len(groups))
	}
	return old, next
}

// settled waits until the lost group is gone and its successor, the same as before, is the only one.
func (s *scene) settled(pool *v1alpha1.WorkerPool, next *corev1.Pod) {
	s.t.Helper()
	s.without(pool, v1alpha1.ConditionDraining, collected)
	fixture.Eventually(s.t, limit, "one group", func() error {
		if groups := s.groups(); len(groups) != 1 || groups[0].Spec.PodUID != next.UID {
			return fmt.Errorf("groups %+v", groups)
		}
		return nil
	})
	if pods := s.pods(); len(pods) != 1 || pods[0].UID != next.UID {
		s.t.Errorf("%d pods, want only the successor's", len(pods))
	}
	s.ready(pool)
}

// The node comes back: its kubelet ends the old pod, and the successor serves on.
func TestNodeReturns(t *testing.T) {
	s := begin(t, 2)
	pool := s.pool()
	_, next := s.lose(pool)
	s.report(s.nodes[0], corev1.ConditionTrue, 0)
	s.settled(pool, next)
	s.gone(pool)
}

// The Node object is deleted: Kubernetes removes the pod, and with it the group goes.
func TestNodeObjectDeleted(t *testing.T) {
	s := begin(t, 2)
	pool := s.pool()
	_, next := s.lose(pool)
	s.must(server.Client.Delete(s.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: s.nodes[0]}}))
	s.settled(pool, next)
}

// Somebody says by a taint that the node is off: the same.
func TestOutOfService(t *testing.T) {
	s := begin(t, 2)
	pool := s.pool()
	_, next := s.lose(pool)
	s.node(s.nodes[0], func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
	})
	s.settled(pool, next)
}

// Nothing is ever proven: after cleanup.timeout the end is forced, and it is said where processes may still run.
func TestLostForGood(t *testing.T) {
	s := begin(t, 2)
	pool := s.pool(func(p *v1alpha1.WorkerPool) { p.Spec.Cleanup.Timeout = &metav1.Duration{Duration: 10 * time.Second} })
	_, next := s.lose(pool)
	s.settled(pool, next)
	s.event(v1alpha1.EventCleanupForced, "may still run on node "+s.nodes[0])
}

// A pool whose node is lost is deleted: it says what it waits for, and the annotation ends the wait.
func TestLostThenDeleted(t *testing.T) {
	s := begin(t, 2)
	pool := s.pool()
	s.lose(pool)
	s.must(server.Client.Delete(s.ctx, pool))
	s.expect(pool, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTerminating, "kubectl delete node "+s.nodes[0])
	s.change(pool, func(p *v1alpha1.WorkerPool) {
		p.Annotations = map[string]string{v1alpha1.AnnotationForceCleanup: string(p.UID)}
	})
	fixture.Eventually(t, limit, "nothing left", func() error {
		left, err := fixture.Leftovers(s.ctx, server.Client, s.namespace)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left: %v", left)
		}
		return err
	})
}

// A node that is away for less than failover.after costs nothing; while it is, the pool says so.
func TestNodeFlaps(t *testing.T) {
	s := begin(t, 2)
	pool := s.pool(func(p *v1alpha1.WorkerPool) { p.Spec.Failover.After = &metav1.Duration{Duration: 10 * time.Minute} })
	s.untouched(pool, func() {
		for range 3 {
			s.report(s.nodes[0], corev1.ConditionUnknown, 5*time.Minute)
			s.expect(pool, v1alpha1.ConditionRouterReady, metav1.ConditionFalse, v1alpha1.ReasonRouterUnreachable, "node "+s.nodes[0]+" of pod ")
			s.report(s.nodes[0], corev1.ConditionTrue, 0)
			s.expect(pool, v1alpha1.ConditionRouterReady, metav1.ConditionTrue, v1alpha1.ReasonRouterReady, "")
		}
	})
	s.gone(pool)
}

// A node that is cordoned and away at the same time: nothing is drained there, the node is waited for, and then given up.
func TestCordonedAndLost(t *testing.T) {
	s := begin(t, 2)
	pool := s.pool(func(p *v1alpha1.WorkerPool) { p.Spec.Failover.After = &metav1.Duration{Duration: 10 * time.Second} })
	old := s.served(s.nodes[0])
	s.report(s.nodes[0], corev1.ConditionUnknown, 0)
	s.expect(pool, v1alpha1.ConditionRouterReady, metav1.ConditionFalse, v1alpha1.ReasonRouterUnreachable, "a successor is made at")
	s.cordon(s.nodes[0], true)
	next := s.served(s.nodes[1])
	s.expect(pool, v1alpha1.ConditionDraining, metav1.ConditionTrue, v1alpha1.ReasonNodeLost, "")
	s.report(s.nodes[0], corev1.ConditionTrue, 0)
	s.settled(pool, next)
	if old.UID == next.UID {
		t.Error("the pod did not change")
	}
}
