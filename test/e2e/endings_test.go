package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// O6 on a real node: whatever ends a pod or its worker container, all that a worker started is gone within the grace period and 2 s.
func TestEveryProcessEnds(t *testing.T) {
	if clusterIsForeign() {
		t.Skip("left out: only the local cluster lets the test look at processes")
	}
	s := begin(t)
	p := s.pool("trees", workers(2), adapter("endings:Trees"))
	for _, ending := range []struct {
		name string
		end  func(corev1.Pod, container)
		// whole says that the pod ends, after its grace period, and not the container alone.
		whole bool
	}{
		{"SIGKILL of all processes at once, as for memory on cgroup v2", s.killAll, false},
		{"eviction", s.evict, true},
		{"SIGKILL of PID 1", func(_ corev1.Pod, c container) {
			_, err := onNodes("kill-container", c.ID)
			s.must(err)
		}, false},
		{"delete", func(pod corev1.Pod, _ container) { s.must(cluster.Delete(s.ctx, &pod)) }, true},
	} {
		s.ready(p)
		pod := s.onlyPod(p)
		started := number(t, s.caller(p).call("start_tree", nil))
		before := s.workerContainer(pod)
		if deaf := strings.Count(fmt.Sprint(before.Processes), "SIG_IGN"); deaf < started-2 {
			t.Fatalf("%s: the container shows %d of the tree's processes: %v", ending.name, deaf, before.Processes)
		}
		bound := 2 * time.Second
		if ending.whole {
			bound += time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
		}
		began := time.Now()
		ending.end(pod, before)
		s.eventually(bound+20*time.Second, "no process of the container after "+ending.name, func() error { return noneAlive(before) })
		s.figure("O6", "pod on a node, "+ending.name+", until no process is left", time.Since(began).Seconds(), "s", bound.Seconds())
		s.eventually(60*time.Second, "another life", func() error {
			if ending.whole {
				return goneOrReplaced(s, p, pod)
			}
			if restarts(s.onlyPod(p)) == 0 {
				return errors.New("no container has been started again yet")
			}
			return nil
		})
	}
	s.delete(p, 30*time.Second)
}

func goneOrReplaced(s *story, p *v1alpha1.WorkerPool, old corev1.Pod) error {
	for _, pod := range s.workerPods(p) {
		if pod.UID != old.UID && pod.DeletionTimestamp == nil {
			return nil
		}
	}
	return fmt.Errorf("pod %s has no successor", old.Name)
}

// workerContainer is the pod's worker container as the node shows it.
func (s *story) workerContainer(pod corev1.Pod) container {
	s.t.Helper()
	containers, err := nodeContainers()
	s.must(err)
	for _, c := range containers {
		if c.PodUID == string(pod.UID) && c.Name == v1alpha1.WorkerContainer {
			return c
		}
	}
	s.t.Fatalf("the nodes show no worker container of pod %s", pod.Name)
	return container{}
}

func noneAlive(before container) error {
	containers, err := nodeContainers()
	if err != nil {
		return err
	}
	for _, c := range containers {
		if c.ID == before.ID {
			return fmt.Errorf("%d processes of container %s live: %v", len(c.Processes), c.ID[:12], c.Processes)
		}
	}
	return nil
}

// killAll ends a container as the kernel does for want of memory on cgroup v2: every process of it, at once.
func (s *story) killAll(_ corev1.Pod, c container) {
	for _, process := range c.Processes {
		if err := syscall.Kill(process.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			s.t.Fatal(err)
		}
	}
}

// evict does what kubectl drain does: it cordons the node, and asks again while the PodDisruptionBudget refuses.
func (s *story) evict(pod corev1.Pod, _ container) {
	s.t.Helper()
	s.cordon(pod.Spec.NodeName, true)
	s.eventually(30*time.Second, "the eviction is allowed", func() error {
		err := cluster.SubResource("eviction").Create(s.ctx, &pod, &policyv1.Eviction{})
		return client.IgnoreNotFound(err)
	})
	s.cordon(pod.Spec.NodeName, false)
}

func (s *story) cordon(node string, away bool) {
	s.t.Helper()
	verb := map[bool]string{true: "cordon", false: "uncordon"}[away]
	if away {
		s.t.Cleanup(func() { _, _ = s.kubectl("uncordon", node) })
	}
	if out, err := s.kubectl(verb, node); err != nil {
		s.t.Fatalf("kubectl %s %s: %v: %s", verb, node, err, out)
	}
}

// O4: a pod removed by force is replaced, its session told lost, and its processes end although the API server has forgotten it.
func TestPodRemovedByForce(t *testing.T) {
	s := beginBeside(t)
	p := s.pool("forced", workers(1))
	s.ready(p)
	c := s.caller(p)
	c.in("kept").count(1)
	old := s.onlyPod(p)
	began := time.Now()
	if out, err := s.kubectl("delete", "pod", "-n", s.namespace, old.Name, "--force", "--grace-period=0"); err != nil {
		t.Fatalf("kubectl delete --force: %v: %s", err, out)
	}
	s.eventually(30*time.Second, "a successor", func() error { return goneOrReplaced(s, p, old) })
	s.ready(p)
	s.figure("O4", "pod removed by force until the pool is Ready again", time.Since(began).Seconds(), "s", 30)
	s.toldLost(c.in("kept"))
	s.eventually(60*time.Second, "no process of the old pod", s.nodeLeftoversOf(old))
	s.figure("O4", "pod removed by force until no process of it is left", time.Since(began).Seconds(), "s", 45)
	s.delete(p, 30*time.Second)
}

// toldLost proves that a session whose worker is gone is not moved silently: it is told, until the caller begins anew.
func (s *story) toldLost(c caller) {
	s.t.Helper()
	moves := 0.0
	for range 2 {
		r := c.try("count", nil)
		// The connection may still be that of the old router, which says so while it ends.
		s.eventually(30*time.Second, "the old router's end", func() error {
			if r.Error == "Draining" || r.Error == "Unavailable" {
				r = c.try("count", nil)
				return fmt.Errorf("%s: %s", r.Error, r.Message)
			}
			return nil
		})
		if r.Error == "" {
			moves++
			s.t.Errorf("session %s went on at %s: %s", c.session, r.Worker, r.Value)
		} else if r.Error != "SessionLost" {
			s.t.Errorf("session %s: %s %s, want SessionLost", c.session, r.Error, r.Message)
		}
	}
	s.figure("O4", "silent moves", moves, "sessions", 0)
	c.do("reopen")
	c.count(1)
}

// nodeLeftoversOf looks for processes of one pod.
func (s *story) nodeLeftoversOf(pod corev1.Pod) func() error {
	return func() error {
		if clusterIsForeign() {
			return nil
		}
		containers, err := nodeContainers()
		if err != nil {
			return err
		}
		for _, c := range containers {
			if c.PodUID == string(pod.UID) {
				return fmt.Errorf("%d processes of pod %s live", len(c.Processes), pod.Name)
			}
		}
		return nil
	}
}

// O8: hooks that hang are cut off at the drain's deadline, and told; hooks that raise delay nothing.
func TestHooksThatDoNotEnd(t *testing.T) {
	s := beginBeside(t)
	hanging := s.pool("hanging", workers(1), adapter("endings:HangingEnd"))
	raising := s.pool("raising", workers(1), adapter("endings:RaisingEnd"))
	for _, p := range []*v1alpha1.WorkerPool{hanging, raising} {
		s.ready(p)
		s.caller(p).in("open").count(1)
	}
	grace := time.Duration(*s.onlyPod(hanging).Spec.TerminationGracePeriodSeconds) * time.Second
	for _, one := range []struct {
		pool  *v1alpha1.WorkerPool
		bound time.Duration
	}{
		// The drain waits for the open session until its deadline; the pod then has its grace period.
		{hanging, hanging.Spec.Drain.Timeout.Duration + grace + 2*time.Second},
		{raising, raising.Spec.Drain.Timeout.Duration + grace/2},
	} {
		began := time.Now()
		s.must(cluster.Delete(s.ctx, one.pool))
		s.goneItself(one.pool, one.bound+30*time.Second)
		s.figure("O8", "hooks "+one.pool.Name+", delete until gone", time.Since(began).Seconds(), "s", one.bound.Seconds())
		s.eventually(10*time.Second, "an Event says that the drain was cut off", func() error { return s.hasEvent(one.pool, v1alpha1.EventDrainTimeout) })
	}
}

// hasEvent looks for an Event about an object.
func (s *story) hasEvent(o client.Object, reason string) error {
	var list corev1.EventList
	if err := cluster.List(s.ctx, &list, client.InNamespace(s.namespace)); err != nil {
		return err
	}
	seen := []string{}
	for _, e := range list.Items {
		if e.InvolvedObject.UID == o.GetUID() {
			seen = append(seen, e.Reason)
			if e.Reason == reason {
				return nil
			}
		}
	}
	return fmt.Errorf("no Event %s among %v", reason, seen)
}
