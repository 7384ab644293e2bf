package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"os/exec"
	"slices"
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
	s.eventually(30*time.Second, "a successor", func() error {
		if pods := s.workerPods(p); !slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return pod.UID != old.UID && isReady(pod) }) {
			return fmt.Errorf("none of %d pods is Ready", len(pods))
		}
		return nil
	})
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
	for range 2 {
		r := c.try("count", nil)
		// The connection may still be that of the old router, which says so while it ends.
		s.eventually(30*time.Second, "the old router's end", func() error {
			if r.Error == "Draining" || r.Error == "Unavailable" || r.Error == "TransportError" {
				r = c.try("count", nil)
				return fmt.Errorf("%s: %s", r.Error, r.Message)
			}
			return nil
		})
		if r.Error == "" {
			s.t.Errorf("session %s went on at %s: %s", c.session, r.Worker, r.Value)
		} else if r.Error != "SessionLost" {
			s.t.Errorf("session %s: %s %s, want SessionLost", c.session, r.Error, r.Message)
		}
	}
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

// hookLog follows what a pod's hooks say until its last process has ended.
type hookLog struct {
	lines []string
	began map[string]time.Time
	ended chan struct{}
	end   time.Time
}

func (s *story) followHooks(pod corev1.Pod) *hookLog {
	s.t.Helper()
	cmd := exec.Command(kubectlPath(), "logs", "-f", "-n", pod.Namespace, pod.Name, "-c", v1alpha1.WorkerContainer)
	out, err := cmd.StdoutPipe()
	s.must(err)
	s.must(cmd.Start())
	l := &hookLog{began: map[string]time.Time{}, ended: make(chan struct{})}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-l.ended
	})
	go func() {
		defer close(l.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if _, said, ok := strings.Cut(lines.Text(), "hook "); ok {
				l.lines = append(l.lines, said)
				l.began[said] = time.Now()
			}
		}
		_ = cmd.Wait()
		l.end = time.Now()
	}()
	return l
}

// O8: every hook runs; one that hangs is cut off at its deadline, and told; one that raises delays nothing.
func TestHooksThatDoNotEnd(t *testing.T) {
	s := beginBeside(t)
	cases := []*hooksCase{
		{name: "good", adapter: "endings:GoodEnd", says: []string{"session_end began", "session_end ended", "teardown began", "teardown ended"}},
		{name: "raising", adapter: "endings:RaisingEnd", says: []string{"session_end began", "teardown began"}},
		{name: "hanging", adapter: "endings:HangingEnd", says: []string{"session_end began"}, hangs: true},
		{name: "hanging-teardown", adapter: "endings:HangingTeardown", says: []string{"teardown began"}, hangs: true},
	}
	for _, c := range cases {
		c.pool = s.pool("hooks-"+c.name, workers(1), adapter(c.adapter))
	}
	for _, c := range cases {
		s.ready(c.pool)
		s.caller(c.pool).in("open").count(1)
		pod := s.onlyPod(c.pool)
		c.grace = time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
		c.log = s.followHooks(pod)
	}
	began := time.Now()
	for _, c := range cases {
		s.must(cluster.Delete(s.ctx, c.pool))
	}
	for _, c := range cases {
		s.endsInTime(c, began)
	}
}

// hooksCase is a pool with hooks of a kind, and what they say.
type hooksCase struct {
	name, adapter string
	says          []string
	hangs         bool
	pool          *v1alpha1.WorkerPool
	grace         time.Duration
	log           *hookLog
}

// endsInTime: the drain waits for the open session until its deadline; the pod then has its grace period if it needs it.
func (s *story) endsInTime(c *hooksCase, began time.Time) {
	s.t.Helper()
	bound := c.pool.Spec.Drain.Timeout.Duration + c.grace/2
	if c.hangs {
		bound = c.pool.Spec.Drain.Timeout.Duration + c.grace + 2*time.Second
	}
	select {
	case <-c.log.ended:
	case <-time.After(bound + 30*time.Second):
		s.t.Fatalf("hooks %s: the container runs on", c.name)
	}
	s.figure("O8", "hooks "+c.name+", delete until the worker's container has ended", c.log.end.Sub(began).Seconds(), "s", bound.Seconds())
	if !slices.Equal(c.log.lines, c.says) {
		s.t.Errorf("hooks %s said %q, want %q", c.name, c.log.lines, c.says)
	} else if c.hangs {
		cut := c.log.end.Sub(c.log.began[c.says[0]])
		s.figure("O8", "hooks "+c.name+", from the hook's begin until it was cut off", cut.Seconds(), "s", (c.grace + 2*time.Second).Seconds())
	}
	s.goneItself(c.pool, 30*time.Second)
	s.eventually(10*time.Second, "an Event says that the drain was cut off", func() error { return s.hasEvent(c.pool, v1alpha1.EventDrainTimeout) })
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
