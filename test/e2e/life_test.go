package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

func clusterIsForeign() bool { return os.Getenv("CLUSTER") == "current" }

func restarts(pod corev1.Pod) int32 {
	var n int32
	for _, s := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		n += s.RestartCount
	}
	return n
}

// started is when the router's container started.
func started(pod corev1.Pod) *metav1.Time {
	for _, s := range pod.Status.InitContainerStatuses {
		if s.Name == v1alpha1.RouterContainer && s.State.Running != nil {
			return &s.State.Running.StartedAt
		}
	}
	return nil
}

// Live settings restart nothing.
func TestLiveSettings(t *testing.T) {
	s := beginBeside(t)
	p := s.pool("live", workers(1))
	s.ready(p)
	pod := s.onlyPod(p)
	c := s.caller(p)
	c.in("kept").count(1)
	s.change(p, func(p *v1alpha1.WorkerPool) {
		p.Spec.Sessions.MaxPerWorker = 1
		p.Spec.Queue.MaxLength = 7
		p.Spec.Calls.Timeout = &metav1.Duration{Duration: 20 * time.Second}
	})
	s.ready(p)
	s.eventually(20*time.Second, "the router follows maxPerWorker", func() error {
		m := c.in("second").command("call")
		m["tool"], m["options"] = "count", map[string]any{"timeout": 1}
		r := c.d.do(t, m)
		if r.Error == "" {
			c.in("second").do("close")
			return fmt.Errorf("a second session was accepted")
		}
		return nil
	})
	c.in("kept").count(2)
	if after := s.onlyPod(p); after.UID != pod.UID || restarts(after) != 0 || !started(after).Equal(started(pod)) {
		t.Errorf("a live setting restarted pod %s", pod.Name)
	}
	s.delete(p, 30*time.Second)
}

// Story (f): another image is a new pod; sessions of the old one are told lost.
func TestImageChange(t *testing.T) {
	s := beginBeside(t)
	p := s.pool("image", workers(2))
	s.ready(p)
	old := s.onlyPod(p)
	c := s.caller(p)
	c.in("told").count(1)
	next := s.loadNextImage()
	s.change(p, func(p *v1alpha1.WorkerPool) { p.Spec.Image = next })
	s.eventually(90*time.Second, "a successor pod", func() error {
		for _, pod := range s.workerPods(p) {
			if pod.UID != old.UID && pod.Spec.Containers[0].Image == p.Spec.Image {
				return nil
			}
		}
		return fmt.Errorf("conditions %s", conditions(s.get(p).Status.Conditions))
	})
	s.ready(p)
	if r := c.in("told").try("count", nil); r.Error != "SessionLost" {
		t.Fatalf("the session of the old pod: %+v, want SessionLost", r)
	}
	c.in("told").do("reopen")
	c.in("told").count(1)
	s.delete(p, 30*time.Second)
}

// Story (g): an adapter that cannot be imported is named in the status, without a crash loop, and heals with the spec.
func TestAdapterImportError(t *testing.T) {
	s := beginBeside(t)
	p := s.pool("broken", workers(2), adapter("broken:App"))
	s.eventually(60*time.Second, "AdapterLoaded=False", func() error {
		c := meta.FindStatusCondition(s.get(p).Status.Conditions, v1alpha1.ConditionAdapterLoaded)
		if c == nil || c.Status != metav1.ConditionFalse || !strings.Contains(c.Message, "ModuleNotFoundError") || !strings.Contains(c.Message, "broken.py:3") {
			return fmt.Errorf("conditions %s", conditions(p.Status.Conditions))
		}
		return nil
	})
	pod := s.onlyPod(p)
	if restarts(pod) != 0 || pod.Status.Phase != corev1.PodRunning {
		t.Fatalf("pod %s is %s after %d restarts, want Running without any", pod.Name, pod.Status.Phase, restarts(pod))
	}
	s.change(p, func(p *v1alpha1.WorkerPool) { p.Spec.Adapter = "stories:Stories" })
	s.ready(p)
	s.caller(p).call("add", map[string]any{"a": 1, "b": 1})
	s.delete(p, 30*time.Second)
}

// Story (h): deletion under load leaves nothing, on the API server and on the node.
func TestDeleteUnderLoad(t *testing.T) {
	s := beginBeside(t)
	p := s.pool("loaded", workers(4))
	s.ready(p)
	c := s.caller(p)
	c.call("add", map[string]any{"a": 1, "b": 1})
	m := c.command("load")
	m["prefix"], m["sessions"], m["calls"], m["name"] = "load", 8, 1000000, t.Name()
	load, err := c.d.begin(m)
	s.must(err)
	pod := s.onlyPod(p)
	s.begun(pod, 8)
	s.workerPods(p)
	began := time.Now()
	s.must(cluster.Delete(s.ctx, p))
	s.eventually(20*time.Second, "the status says Terminating", func() error {
		err := cluster.Get(s.ctx, client.ObjectKeyFromObject(p), p)
		if err != nil {
			return err
		}
		if r := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady); r.Reason != v1alpha1.ReasonTerminating {
			return fmt.Errorf("conditions %s", conditions(p.Status.Conditions))
		}
		return nil
	})
	s.gone(p, 60*time.Second)
	t.Logf("figure: delete under load until nothing is left %.1f s", time.Since(began).Seconds())
	c.d.do(t, map[string]any{"op": "stop", "name": t.Name()})
	r := c.d.await(t, load, 60*time.Second)
	for name, one := range c.loaded(r) {
		if one.Wrong != 0 || len(one.Workers) > 1 || one.Calls == 0 {
			t.Errorf("session %s under deletion: %+v", name, one)
		}
	}
}

// Story (i): the operator is down while the pool is deleted; it cleans up when it is back.
func TestOperatorDown(t *testing.T) {
	s := begin(t)
	p := s.pool("down", workers(1))
	s.ready(p)
	s.scaleOperator(0)
	t.Cleanup(func() { s.scaleOperator(1) })
	s.workerPods(p)
	s.must(cluster.Delete(s.ctx, p))
	s.caller(p).call("add", map[string]any{"a": 1, "b": 1})
	s.scaleOperator(1)
	s.gone(p, 60*time.Second)
}

func (s *story) scaleOperator(n int32) {
	s.t.Helper()
	key := client.ObjectKey{Namespace: "snakepit-system", Name: "snakepit-operator"}
	var d appsv1.Deployment
	s.must(cluster.Get(s.ctx, key, &d))
	patch := client.MergeFrom(d.DeepCopy())
	d.Spec.Replicas = ptr.To(n)
	s.must(cluster.Patch(s.ctx, &d, patch))
	s.eventually(60*time.Second, fmt.Sprintf("operator at %d", n), func() error {
		s.must(cluster.Get(s.ctx, key, &d))
		if d.Status.Replicas != n || d.Status.ReadyReplicas != n || d.Status.ObservedGeneration != d.Generation {
			return fmt.Errorf("%d of %d", d.Status.ReadyReplicas, n)
		}
		return nil
	})
}

// Story (j): bad manifests are refused with a message that says what to do. The first line of each file names it.
func TestBadManifests(t *testing.T) {
	s := beginBeside(t)
	paths, err := filepath.Glob("testdata/bad/*.yaml")
	s.must(err)
	if len(paths) < 20 {
		t.Fatalf("%d bad manifests, want at least 20", len(paths))
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		s.must(err)
		first, _, _ := strings.Cut(string(text), "\n")
		want := strings.TrimPrefix(first, "# refused: ")
		if out, err := s.kubectl("apply", "--dry-run=server", "-n", s.namespace, "-f", path); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: got %v: %s\nwant it refused with %q", filepath.Base(path), err, out, want)
		}
	}
}

// Story (k): kstatus, which Helm and Flux use, reads the right word at the right time.
func TestKstatus(t *testing.T) {
	s := beginBeside(t)
	taken := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "kstatus"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	s.must(cluster.Create(s.ctx, taken))
	p := s.pool("kstatus", workers(1))
	if first := s.kstatus(p); first != status.InProgressStatus {
		t.Errorf("just created: %s, want InProgress", first)
	}
	s.eventually(30*time.Second, "Failed while the Service's name is taken", func() error { return s.wantStatus(p, status.FailedStatus) })
	s.must(cluster.Delete(s.ctx, taken))
	seen := map[status.Status]bool{}
	s.eventually(90*time.Second, "Current when ready", func() error {
		seen[s.kstatus(p)] = true
		return s.wantStatus(p, status.CurrentStatus)
	})
	if !seen[status.InProgressStatus] {
		t.Errorf("on the way to Current kstatus never read InProgress: %v", seen)
	}
	s.ready(p)
	s.change(p, func(p *v1alpha1.WorkerPool) { p.Spec.Workers = 3 })
	if got := s.kstatus(p); got != status.InProgressStatus {
		t.Errorf("right after a change: %s, want InProgress", got)
	}
	s.eventually(60*time.Second, "Current again", func() error { return s.wantStatus(p, status.CurrentStatus) })
	s.workerPods(p)
	s.must(cluster.Delete(s.ctx, p))
	if got := s.kstatus(p); got != status.TerminatingStatus {
		t.Errorf("after delete: %s, want Terminating", got)
	}
	s.gone(p, 60*time.Second)
}

func (s *story) kstatus(p *v1alpha1.WorkerPool) status.Status {
	s.t.Helper()
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkerPool"))
	s.must(cluster.Get(s.ctx, client.ObjectKeyFromObject(p), u))
	result, err := status.Compute(u)
	s.must(err)
	return result.Status
}

func (s *story) wantStatus(p *v1alpha1.WorkerPool, want status.Status) error {
	if got := s.kstatus(p); got != want {
		return fmt.Errorf("kstatus reads %s; conditions %s", got, conditions(s.get(p).Status.Conditions))
	}
	return nil
}

// Story (l): a pod deleted by hand drains inside and is replaced; a namespace deleted leaves nothing.
func TestPodAndNamespaceDeleted(t *testing.T) {
	s := beginBeside(t)
	p := s.pool("byhand", workers(2), func(p *v1alpha1.WorkerPool) { p.Spec.Drain.Timeout = &metav1.Duration{Duration: 10 * time.Second} })
	s.ready(p)
	old := s.onlyPod(p)
	c := s.caller(p)
	c.in("told").count(1)
	running := c.in("told").begin("slow_count", map[string]any{"seconds": 9}) // all of drain.timeout is for calls
	s.runs(old, 1)
	s.must(cluster.Delete(s.ctx, &old))
	if r := c.d.await(t, running, 60*time.Second); r.Error != "" || number(t, r) != 2 {
		t.Errorf("the call that ran while its pod was deleted: %+v, want 2", r)
	}
	s.eventually(90*time.Second, "a new pod", func() error {
		for _, pod := range s.workerPods(p) {
			if pod.UID != old.UID {
				return nil
			}
		}
		return fmt.Errorf("conditions %s", conditions(s.get(p).Status.Conditions))
	})
	s.ready(p)
	if r := c.in("told").try("count", nil); r.Error != "SessionLost" {
		t.Errorf("the session of the deleted pod: %+v, want SessionLost", r)
	}
	s.onlyPod(p)
	s.must(deleteNamespace(s.ctx, s.namespace))
}
