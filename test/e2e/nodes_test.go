package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// secondNode is for one story at a time.
var secondNode sync.Mutex

// beginOnTwoNodes begins a story in which the second node may be lost. It runs beside others: their pools, the operator and the client stay on
// the first.
func beginOnTwoNodes(t *testing.T) *story {
	t.Helper()
	if nodes.second == "" {
		t.Skip("left out: needs a second node that may be lost; to run it: make cluster-up NODES=2, make images install test-nodes")
	}
	t.Parallel()
	secondNode.Lock()
	t.Cleanup(secondNode.Unlock)
	s := begin(t)
	pinOperator(s)
	return s
}

// pinOperator keeps the operator on the first node. No story that runs beside others ends it, so once is enough.
func pinOperator(s *story) {
	s.t.Helper()
	patch := fmt.Sprintf(`{"spec": {"template": {"spec": {"nodeSelector": {%q: %q}}}}}`, corev1.LabelHostname, nodes.first)
	if out, err := s.kubectl("patch", "deployment", "snakepit-operator", "-n", operatorNamespace, "-p", patch); err != nil {
		s.t.Fatalf("pinning the operator: %v: %s", err, out)
	}
	if out, err := s.kubectl("rollout", "status", "deployment/snakepit-operator", "-n", operatorNamespace, "--timeout=60s"); err != nil {
		s.t.Fatalf("pinning the operator: %v: %s", err, out)
	}
}

// preferring puts a pool's pod on a node as long as that is possible.
func preferring(node string) poolOption {
	return func(p *v1alpha1.WorkerPool) {
		p.Spec.Template.Spec.NodeSelector = nil
		p.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
				Weight: 100,
				Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
				}}},
			}},
		}}
	}
}

// elsewhere waits for a Ready pod that is not on the node.
func (s *story) elsewhere(p *v1alpha1.WorkerPool, node string) error {
	for _, pod := range s.workerPods(p) {
		if pod.Spec.NodeName == node {
			continue
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
	}
	return fmt.Errorf("no Ready pod but on %s: %s", node, conditions(s.get(p).Status.Conditions))
}

// O4: the node of a pool is cut off. A successor serves elsewhere, sessions are told lost; the node comes back, and the old pod ends for good.
func TestNodeLostAndReturned(t *testing.T) {
	s := beginOnTwoNodes(t)
	p := s.pool("away", workers(2), preferring(nodes.second), func(p *v1alpha1.WorkerPool) {
		p.Spec.Failover.After = &metav1.Duration{Duration: 10 * time.Second}
	})
	s.ready(p)
	old := s.onlyPod(p)
	if old.Spec.NodeName != nodes.second {
		t.Fatalf("the pod is on %s, want it on %s", old.Spec.NodeName, nodes.second)
	}
	c := s.caller(p)
	c.in("kept").count(1)
	s.network("node-cut")
	began := time.Now()
	s.eventually(120*time.Second, "a successor elsewhere", func() error { return s.elsewhere(p, nodes.second) })
	s.ready(p)
	s.figure("O4", "node lost (failover.after 10 s) until the pool is Ready elsewhere", time.Since(began).Seconds(), "s", 60)
	if err := s.nodeLeftoversOf(old)(); err == nil {
		t.Error("the pod on the lost node has no processes: the node was not only cut off")
	}
	// The connection to the lost pod breaks first, which says that a call on it may have run.
	s.eventually(30*time.Second, "the client has a connection to the successor", func() error {
		if r := c.try("add", map[string]any{"a": 1, "b": 1}); r.Error != "" {
			return fmt.Errorf("%s: %s", r.Error, r.Message)
		}
		return nil
	})
	s.toldLost(c.in("kept"))
	s.must(s.hasEvent(p, v1alpha1.EventNodeLost))
	s.network("node-return")
	began = time.Now()
	s.eventually(90*time.Second, "the old pod and its processes gone", func() error {
		for _, pod := range s.workerPods(p) {
			if pod.UID == old.UID {
				return fmt.Errorf("pod %s is still known", pod.Name)
			}
		}
		return s.nodeLeftoversOf(old)()
	})
	s.figure("O4", "node returned until nothing of the old pod is left", time.Since(began).Seconds(), "s", 60)
	c.in("kept").count(2)
	s.delete(p, 60*time.Second)
}

// network cuts the second node off, or brings it back; it is back when the story ends.
func (s *story) network(verb string) {
	s.t.Helper()
	if verb == "node-cut" {
		s.t.Cleanup(func() {
			_, err := onNodes("node-return")
			s.must(err)
		})
	}
	_, err := onNodes(verb)
	s.must(err)
}

// kubectl drain under session traffic: it ends within drain.timeout, the pool serves elsewhere, and what was lost is told.
func TestKubectlDrain(t *testing.T) {
	s := beginOnTwoNodes(t)
	const timeout = 10 * time.Second
	p := s.pool("moved", workers(2), preferring(nodes.second), func(p *v1alpha1.WorkerPool) {
		p.Spec.Drain.Timeout = &metav1.Duration{Duration: timeout}
	})
	s.ready(p)
	if pod := s.onlyPod(p); pod.Spec.NodeName != nodes.second {
		t.Fatalf("the pod is on %s, want it on %s", pod.Spec.NodeName, nodes.second)
	}
	c := s.caller(p)
	c.in("kept").count(1)
	m := c.command("load")
	m["prefix"], m["sessions"], m["calls"], m["name"] = "load", 8, 1000000, t.Name()
	load, err := c.d.begin(m)
	s.must(err)
	c.in("kept").count(2)
	s.t.Cleanup(func() { _, _ = s.kubectl("uncordon", nodes.second) })
	began := time.Now()
	out, err := exec.Command(kubectlPath(), "drain", nodes.second, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=90s").CombinedOutput()
	took := time.Since(began)
	if err != nil {
		t.Fatalf("kubectl drain: %v after %s: %s", err, took, out)
	}
	s.figure("drain", "kubectl drain under session traffic (drain.timeout 10 s)", took.Seconds(), "s", (timeout + 10*time.Second).Seconds())
	s.eventually(60*time.Second, "a successor elsewhere", func() error { return s.elsewhere(p, nodes.second) })
	s.ready(p)
	s.figure("drain", "kubectl drain until the pool is Ready elsewhere", time.Since(began).Seconds(), "s", 60)
	s.must(s.hasEvent(p, v1alpha1.EventDrainTimeout))
	c.d.do(t, map[string]any{"op": "stop", "name": t.Name()})
	for name, one := range decode[map[string]loadResult](t, c.d.await(t, load, 60*time.Second).Value) {
		if one.Wrong != 0 || len(one.Workers) > 1 || one.Calls == 0 || one.Errors["SessionLost"] == 0 {
			t.Errorf("session %s across the drain: %+v, want it counted without a gap on one worker, then told lost", name, one)
		}
	}
	s.toldLost(c.in("kept"))
	if out, err := s.kubectl("get", "pdb", p.Name, "-n", s.namespace, "-o", "jsonpath={.spec.minAvailable}"); err != nil || strings.TrimSpace(out) != "1" {
		t.Errorf("PodDisruptionBudget: %v %s", err, out)
	}
	s.delete(p, 60*time.Second)
}
