package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
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
	s := beginBeside(t)
	secondNode.Lock()
	t.Cleanup(secondNode.Unlock)
	return s
}

// pinOperator keeps the operator on the first node, before the stories that run beside others begin. None of them ends it, so once is enough.
var pinOperator = sync.OnceValue(func() error {
	if nodes.second == "" {
		return nil
	}
	patch := fmt.Sprintf(`{"spec": {"template": {"spec": {"nodeSelector": {%q: %q}}}}}`, corev1.LabelHostname, nodes.first)
	for _, args := range [][]string{
		{"patch", "deployment", "snakepit-operator", "-n", operatorNamespace, "-p", patch},
		{"rollout", "status", "deployment/snakepit-operator", "-n", operatorNamespace, "--timeout=60s"},
	} {
		if out, err := exec.Command(kubectlPath(), args...).CombinedOutput(); err != nil {
			return fmt.Errorf("pinning the operator: %w: %s", err, out)
		}
	}
	return nil
})

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
		if isReady(pod) {
			return nil
		}
	}
	return fmt.Errorf("no Ready pod but on %s: %s", node, conditions(s.get(p).Status.Conditions))
}

// O4: the node of a pool is cut off, router and workers together. A successor serves elsewhere and its callers are told that their sessions are
// lost; a caller beyond the cut is served on, in the old life; the node comes back, and the old life ends for good.
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
	before := c.in("kept").count(1)
	beyond := s.beyond(old)
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
	s.oldLifeEnds(p, c.in("kept"), old, before)
	s.figure("O4", "node returned until nothing of the old pod is left", time.Since(began).Seconds(), "s", 60)
	s.servedBeyond(p, beyond, before)
	s.must(cluster.Delete(s.ctx, beyond))
	// No call of the old life has touched the new one.
	c.in("kept").count(2)
	s.delete(p, 60*time.Second)
}

// beyond has a caller beside the pod, on its node, which calls the session "kept" at its router on and on.
func (s *story) beyond(old corev1.Pod) *corev1.Pod {
	s.t.Helper()
	data, err := files("driver/*.py")
	s.must(err)
	s.must(cluster.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "client"}, Data: data}))
	pod := clientPod(metav1.ObjectMeta{Namespace: s.namespace, Name: "beyond"}, "python3", "/driver/beyond.py", address(old), "kept")
	pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: old.Spec.NodeName}
	s.must(startPod(s.ctx, pod))
	s.eventually(30*time.Second, "the caller beyond the cut is answered", func() error {
		if out, err := s.kubectl("logs", "-n", s.namespace, pod.Name); err != nil || !strings.Contains(out, `"by"`) {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return pod
}

// address of a pod's router, past the Service.
func address(pod corev1.Pod) string {
	return net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(v1alpha1.PortGRPC))
}

// oldLifeEnds shows the token of the old life to the successor and to the old router, until nothing of the old pod is left: the successor never
// takes it, and the old router takes it for as long as its own worker has that life, and not again afterwards.
func (s *story) oldLifeEnds(p *v1alpha1.WorkerPool, c caller, old corev1.Pod, before reply) {
	s.t.Helper()
	refused := map[string][]string{}
	s.eventually(90*time.Second, "the old pod and its processes gone", func() error {
		for _, at := range []string{c.address, address(old)} {
			r := c.d.do(s.t, map[string]any{"op": "with_token", "address": at, "session": c.session, "token": before.Token})
			switch {
			case r.Error != "":
				refused[at] = slices.Compact(append(refused[at], r.Error))
			case at == c.address || slices.Contains(refused[at], "SessionLost") || r.By != before.By:
				s.t.Errorf("%s took the token of the old life (refused before: %q): %+v", at, refused[at], r)
			default:
				s.must(answers.answered(c.pool, "", r.Token, r.By))
			}
		}
		for _, pod := range s.workerPods(p) {
			if pod.UID == old.UID {
				return fmt.Errorf("pod %s is still known", pod.Name)
			}
		}
		return s.nodeLeftoversOf(old)()
	})
	if !slices.Equal(refused[c.address], []string{"SessionLost"}) || len(refused[address(old)]) == 0 {
		s.t.Errorf("the token of the old life was refused with %v, want SessionLost at the successor and an error at the old router", refused)
	}
	s.t.Logf("the token of the old life was refused with %v", refused)
}

// servedBeyond reads what the caller beyond the cut saw: its session went on where it was, in the same life, until it was told the end.
func (s *story) servedBeyond(p *v1alpha1.WorkerPool, beyond *corev1.Pod, before reply) {
	s.t.Helper()
	out, err := s.kubectl("logs", "-n", s.namespace, beyond.Name)
	s.must(err)
	served, last := 0, reply{}
	for line := range strings.Lines(out) {
		last = decode[reply](s.t, json.RawMessage(line))
		if last.Error != "" {
			continue
		}
		served++
		s.must(answers.answered(p.Namespace+"/"+p.Name, "beyond "+beyond.Name, last.Token, last.By))
		if last.Token != before.Token || last.By != before.By {
			s.t.Errorf("beyond the cut the session was answered by %s, in another life than before by %s", last.By, before.By)
		}
	}
	if served == 0 || last.Error == "" {
		s.t.Errorf("beyond the cut, want a session that is served and at last refused:\n%s", out)
	}
	s.t.Logf("beyond the cut:\n%s", out)
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
	pod := s.onlyPod(p)
	if pod.Spec.NodeName != nodes.second {
		t.Fatalf("the pod is on %s, want it on %s", pod.Spec.NodeName, nodes.second)
	}
	c := s.caller(p)
	c.in("kept").count(1)
	m := c.command("load")
	m["prefix"], m["sessions"], m["calls"], m["name"] = "load", 8, 1000000, t.Name()
	load, err := c.d.begin(m)
	s.must(err)
	c.in("kept").count(2)
	s.begun(pod, 9)
	s.t.Cleanup(func() { _, _ = s.kubectl("uncordon", nodes.second) })
	began := time.Now()
	out, err := exec.Command(kubectlPath(), "drain", nodes.second, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=90s").CombinedOutput()
	took := time.Since(began)
	if err != nil {
		t.Fatalf("kubectl drain: %v after %s: %s", err, took, out)
	}
	// As docs/how-to/node-maintenance.md promises: the pod's end takes up to 15 s, and the command looks every 5 s.
	s.figure("drain", "kubectl drain under session traffic (drain.timeout 10 s)", took.Seconds(), "s", (timeout + 20*time.Second).Seconds())
	s.eventually(60*time.Second, "a successor elsewhere", func() error { return s.elsewhere(p, nodes.second) })
	s.ready(p)
	s.figure("drain", "kubectl drain until the pool is Ready elsewhere", time.Since(began).Seconds(), "s", 60)
	s.must(s.hasEvent(p, v1alpha1.EventDrainTimeout))
	c.d.do(t, map[string]any{"op": "stop", "name": t.Name()})
	for name, one := range c.loaded(c.d.await(t, load, 60*time.Second)) {
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
