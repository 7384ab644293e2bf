package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// who is the answer of the whoami tool.
type who struct {
	PID int `json:"pid"`
	UID int `json:"uid"`
}

// Story (a): apply → Ready → call → stream; errors arrive as what they are.
func TestApplyCallStream(t *testing.T) {
	s := beginBeside(t)
	began := time.Now()
	p := s.pool("first", workers(2))
	s.ready(p)
	t.Logf("figure: apply to Ready %.1f s", time.Since(began).Seconds())
	c := s.caller(p)

	if got := number(t, c.call("add", map[string]any{"a": 1, "b": 2})); got != 3 {
		t.Fatalf("add(1, 2) = %d", got)
	}
	m := c.command("stream")
	m["tool"], m["args"] = "countdown", map[string]any{"start": 5}
	if got := string(c.d.do(t, m).Value); got != "[5, 4, 3, 2, 1]" {
		t.Fatalf("countdown(5) = %s", got)
	}
	if r := c.try("fail", map[string]any{"message": "no luck"}); r.Reason != "ADAPTER_EXCEPTION" || !strings.Contains(fmt.Sprint(r.Bases), "ValueError") || !strings.Contains(r.Message, "no luck") {
		t.Fatalf("fail: %+v", r)
	}
	if r := c.try("add", map[string]any{"a": "one", "b": 2}); r.Reason != "ARGUMENT_INVALID" || !strings.Contains(r.Message, "a") {
		t.Fatalf("bad argument: %+v", r)
	}
	if r := c.try("ad", nil); r.Reason != "TOOL_UNKNOWN" || !strings.Contains(r.Message, "add") {
		t.Fatalf("unknown tool: %+v", r)
	}
	if w := decode[who](t, c.call("whoami", nil).Value); w.UID == 0 {
		t.Fatal("the worker runs as root")
	}
	s.restrictedPod(p)
	s.delete(p, 30*time.Second)
	s.must(each(s.ctx, &corev1.EventList{}, func(o client.Object) {
		if e := o.(*corev1.Event); e.Reason == "FailedPreStopHook" {
			t.Errorf("the drain before the pod's end did not work: %s: %s", e.InvolvedObject.FieldPath, e.Message)
		}
	}, client.InNamespace(s.namespace)))
}

// restrictedPod checks what the API server's admission cannot see: where the API token is.
func (s *story) restrictedPod(p *v1alpha1.WorkerPool) {
	s.t.Helper()
	pod := s.onlyPod(p)
	for _, c := range pod.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if strings.Contains(m.MountPath, "serviceaccount") {
				s.t.Errorf("container %s has the API token at %s", c.Name, m.MountPath)
			}
		}
	}
	out, err := s.kubectl("exec", "-n", s.namespace, pod.Name, "-c", v1alpha1.WorkerContainer, "--",
		"python3", "-c", "import os; print(os.path.exists('/var/run/secrets/kubernetes.io')); open('/root-is-writable', 'w')")
	if err == nil || !strings.Contains(out, "False") || !strings.Contains(out, "Read-only file system") {
		s.t.Errorf("worker container: want no token and a read-only root, got %v: %s", err, out)
	}
}

// Story (b): a session stays with its worker through 200 calls beside 20 others.
func TestSessionStays(t *testing.T) {
	s := beginBeside(t)
	p := s.pool("stays", workers(4))
	s.ready(p)
	c := s.caller(p)

	c.call("add", map[string]any{"a": 1, "b": 1})
	m := c.command("load")
	m["prefix"], m["sessions"], m["calls"] = "other", 20, 50
	others, err := c.d.begin(m)
	s.must(err)
	worker := ""
	for i := 1; i <= 200; i++ {
		r := c.in("mine").count(i)
		if worker == "" {
			worker = r.Worker
		}
		if r.Worker != worker {
			t.Fatalf("call %d ran on %s, the session began on %s", i, r.Worker, worker)
		}
	}
	s.checkLoad(c, c.d.await(t, others, 120*time.Second), 50, 4)
	c.in("mine").do("close")
	s.delete(p, 30*time.Second)
}

type loadResult struct {
	Calls   int            `json:"calls"`
	Wrong   int            `json:"wrong"`
	Workers []string       `json:"workers"`
	Lives   [][2]string    `json:"lives"` // each token, with the process that answered
	Errors  map[string]int `json:"errors"`
}

// loaded reads what a load's sessions saw, and enters who answered them.
func (c caller) loaded(r reply) map[string]loadResult {
	c.t.Helper()
	all := decode[map[string]loadResult](c.t, r.Value)
	for name, one := range all {
		for _, life := range one.Lives {
			if err := answers.answered(c.pool, c.key()+name, life[0], life[1]); err != nil {
				c.t.Errorf("session %q: %v", name, err)
			}
		}
	}
	return all
}

// checkLoad: every session counted without a gap, on one worker, and together they used all workers.
func (s *story) checkLoad(c caller, r reply, calls, wantWorkers int) {
	s.t.Helper()
	if r.Error != "" {
		s.t.Fatalf("load: %s: %s", r.Error, r.Message)
	}
	all := map[string]bool{}
	for name, one := range c.loaded(r) {
		if one.Calls != calls || one.Wrong != 0 || len(one.Workers) != 1 || len(one.Errors) != 0 {
			s.t.Errorf("session %s: %+v, want %d calls on one worker", name, one, calls)
		}
		for _, w := range one.Workers {
			all[w] = true
		}
	}
	if len(all) != wantWorkers {
		s.t.Errorf("the sessions used %d workers, want %d", len(all), wantWorkers)
	}
}

// Story (c): a killed worker's session is lost, and said so until acknowledged; others are unharmed; a replacement comes; what it had started is gone.
func TestWorkerKilled(t *testing.T) {
	s := beginBeside(t)
	p := s.pool("killed", workers(3))
	s.ready(p)
	pod := s.onlyPod(p)
	c := s.caller(p)
	sessions := map[string]string{}
	for _, name := range []string{"s0", "s1", "s2"} {
		sessions[name] = c.in(name).count(1).Worker
	}
	if sessions["s0"] == sessions["s1"] || sessions["s1"] == sessions["s2"] || sessions["s0"] == sessions["s2"] {
		t.Fatalf("three sessions on three workers, got %v", sessions)
	}
	victim := decode[who](t, c.in("s0").call("whoami", nil).Value)
	daemon := number(t, c.in("s0").call("start_daemon", nil))
	s.kill(pod.Name, victim.PID)

	for i := 0; i < 2; i++ {
		if r := c.in("s0").try("count", nil); r.Error != "SessionLost" {
			t.Fatalf("call %d after the kill: %+v, want SessionLost", i, r)
		}
	}
	c.in("s0").do("reopen")
	c.in("s0").count(1)
	for _, name := range []string{"s1", "s2"} {
		if r := c.in(name).count(2); r.Worker != sessions[name] {
			t.Fatalf("session %s moved from %s to %s", name, sessions[name], r.Worker)
		}
	}
	s.ready(p)
	s.eventually(5*time.Second, "the daemon of the killed worker gone", func() error {
		if string(c.in("s1").call("alive", map[string]any{"pid": daemon}).Value) != "false" {
			return fmt.Errorf("process %d lives", daemon)
		}
		return nil
	})
	if r := c.try("die", nil); r.Error != "WorkerDied" || r.Execution != "MAYBE_EXECUTED" {
		t.Fatalf("a call whose worker dies: %+v, want WorkerDied, MAYBE_EXECUTED", r)
	}
	s.ready(p)
	if after := s.onlyPod(p); after.UID != pod.UID || restarts(after) != 0 {
		t.Fatalf("the pod changed or a container restarted: %s, %d restarts", after.Name, restarts(after))
	}
	s.delete(p, 30*time.Second)
}

// runs waits until so many calls have a worker of the pod.
func (s *story) runs(pod corev1.Pod, calls int) {
	s.t.Helper()
	s.eventually(10*time.Second, "the call runs", func() error { return s.says(pod, "snakepit_router_calls_in_flight", calls) })
}

// begun waits until so many sessions are in the pod: a drain refuses those that come after it.
func (s *story) begun(pod corev1.Pod, sessions int) {
	s.t.Helper()
	s.eventually(20*time.Second, "every session of the load has begun", func() error { return s.says(pod, "snakepit_router_sessions", sessions) })
}

// Story (d): the router is killed; sessions and running calls are kept.
func TestRouterKilled(t *testing.T) {
	s := beginBeside(t)
	if clusterIsForeign() {
		t.Skip("left out: killing a container needs the node; run it on the local cluster")
	}
	p := s.pool("router", workers(2))
	s.ready(p)
	pod := s.onlyPod(p)
	c := s.caller(p)
	before := c.in("kept").count(1)
	_, err := buildTool() // now, and not while the call runs
	s.must(err)
	other := c.in("other").count(1)
	running := c.in("kept").begin("slow_count", map[string]any{"seconds": 8})
	s.runs(pod, 1)
	id := ""
	for _, status := range pod.Status.InitContainerStatuses {
		if status.Name == v1alpha1.RouterContainer {
			id = strings.TrimPrefix(status.ContainerID, "containerd://")
		}
	}
	_, err = onNodes("kill-container", id)
	s.must(err)
	if r := c.d.await(t, running, 60*time.Second); r.Error == "" || r.Execution != "MAYBE_EXECUTED" {
		t.Fatalf("the call that the killed router carried: %+v, want an error with MAYBE_EXECUTED", r)
	}
	began := time.Now()
	s.eventually(60*time.Second, "the router answers again", func() error {
		if r := c.in("other").try("count", nil); r.Error != "" {
			return fmt.Errorf("%s: %s", r.Error, r.Message)
		} else if r.Worker != other.Worker {
			t.Fatalf("session other moved from %s to %s", other.Worker, r.Worker)
		}
		return nil
	})
	t.Logf("figure: router SIGKILL to an answer in a session %.2f s", time.Since(began).Seconds())
	if r := c.in("kept").count(3); r.Worker != before.Worker {
		t.Fatalf("session kept moved from %s to %s", before.Worker, r.Worker)
	}
	s.ready(p)
	for _, status := range s.onlyPod(p).Status.ContainerStatuses {
		if status.RestartCount != 0 {
			t.Fatalf("container %s restarted %d times", status.Name, status.RestartCount)
		}
	}
	s.delete(p, 30*time.Second)
}

// Story (e): scale 2 → 8 → 3 in place, through the scale subresource.
func TestScaleInPlace(t *testing.T) {
	s := beginBeside(t)
	p := s.pool("scale", workers(2))
	s.ready(p)
	pod := s.onlyPod(p)
	c := s.caller(p)
	s.scale(p, 8)
	began := time.Now()
	s.ready(p)
	t.Logf("figure: scale 2 to 8 until Ready says so %.2f s", time.Since(began).Seconds())

	owners := map[string]string{}
	for i := range 8 {
		name := fmt.Sprintf("s%d", i)
		owners[name] = c.in(name).count(1).Worker
	}
	s.scale(p, 3)
	kept := 0
	s.ready(p)
	s.eventually(30*time.Second, "only 3 worker processes", func() error {
		if got := s.get(p).Status.Workers; got != 3 {
			return fmt.Errorf("%d workers exist", got)
		}
		return nil
	})
	for name, worker := range owners {
		r := c.in(name).try("count", nil)
		switch {
		case r.Error == "" && r.Worker == worker && number(t, r) == 2:
			kept++
		case r.Error == "SessionLost":
		default:
			t.Errorf("session %s after the scale: %+v; want it kept on %s, or SessionLost", name, r, worker)
		}
	}
	if kept != 3 {
		t.Errorf("%d sessions were kept on the 3 workers that stay, want 3", kept)
	}
	if after := s.onlyPod(p); after.UID != pod.UID || restarts(after) != 0 || !started(after).Equal(started(pod)) {
		t.Errorf("scaling changed the pod %s or restarted a container", pod.Name)
	}
	s.delete(p, 30*time.Second)
}

// scale uses kubectl scale, as a user would.
func (s *story) scale(p *v1alpha1.WorkerPool, n int32) {
	s.t.Helper()
	if out, err := s.kubectl("scale", "wpool", p.Name, "-n", s.namespace, fmt.Sprintf("--replicas=%d", n)); err != nil {
		s.t.Fatalf("kubectl scale: %v: %s", err, out)
	}
	s.must(cluster.Get(s.ctx, client.ObjectKeyFromObject(p), p))
}
