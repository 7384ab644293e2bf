package workergroup

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func newGroup() *v1alpha1.WorkerGroup {
	g := &v1alpha1.WorkerGroup{ObjectMeta: metav1.ObjectMeta{Name: "demo-r1-0", UID: "g", Generation: 4}}
	g.Spec.Workers, g.Spec.PodUID = 2, "p"
	g.Status.Router = &v1alpha1.RouterStatus{PodUID: "p", ReadyWorkers: 2, ObservedGeneration: 4}
	return g
}

func newPod(edits ...func(*corev1.Pod)) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "demo-r1-0-0", UID: "p"}}
	p.Spec.NodeName = "n1"
	p.Spec.Containers = []corev1.Container{{Name: "worker", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}}}}
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: v1alpha1.RouterContainer, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	for _, edit := range edits {
		edit(&p)
	}
	return p
}

func unready(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }

func looping(g *v1alpha1.WorkerGroup) {
	g.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionWorkersReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonCrashLooping, Message: "workers die again and again"}}
}

func status(p *corev1.Pod, container string) *corev1.ContainerStatus {
	if len(p.Status.ContainerStatuses) == 0 {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: container, Image: "img:1", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	}
	return &p.Status.ContainerStatuses[0]
}

func waits(container, reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		unready(p)
		status(p, container).State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
}

// ends has a container that ended twice and runs again.
func ends(container string, code int32, reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		c := status(p, container)
		c.RestartCount = 2
		c.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message}
	}
}

func evicted(p *corev1.Pod) {
	p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "Evicted", "The node was low on resource: memory. "
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		name                 string
		group                func(*v1alpha1.WorkerGroup)
		pods                 []corev1.Pod
		refused              *refusal
		router, ready        string
		message, alsoPresent string
	}{
		{name: "no pod", router: "False/PodPending", ready: "False/PodPending", message: "has no pod yet"},
		{name: "refused", refused: &refusal{v1alpha1.ReasonPodRejected, "quota"}, router: "False/PodRejected", ready: "False/PodRejected", message: "quota", alsoPresent: v1alpha1.ConditionStalled},
		{name: "ready", pods: []corev1.Pod{newPod()}, router: "True/RouterReady", ready: "True/WorkersReady", message: "2 of 2 workers ready"},
		{name: "some start", group: func(g *v1alpha1.WorkerGroup) { g.Status.Router.ReadyWorkers = 1 }, pods: []corev1.Pod{newPod()}, router: "True/RouterReady", ready: "False/WorkersStarting", message: "1 of 2 workers of group demo-r1-0 not ready yet"},
		{name: "none wanted", group: func(g *v1alpha1.WorkerGroup) { g.Spec.Workers, g.Status.Router.ReadyWorkers = 0, 0 }, pods: []corev1.Pod{newPod()}, router: "True/RouterReady", ready: "True/ScaledToZero", message: "no worker of group demo-r1-0 is wanted"},
		{name: "crash loop of workers", group: looping, pods: []corev1.Pod{newPod()}, router: "True/RouterReady", ready: "False/CrashLooping", message: "again and again", alsoPresent: v1alpha1.ConditionStalled},
		{name: "crash loop before the first is ready", group: looping, pods: []corev1.Pod{newPod(unready)}, router: "False/RouterUnreachable", ready: "False/CrashLooping", message: "again and again", alsoPresent: v1alpha1.ConditionStalled},
		{name: "crash loop in an earlier pod", group: func(g *v1alpha1.WorkerGroup) { looping(g); g.Status.Router.PodUID = "old" }, pods: []corev1.Pod{newPod()}, router: "True/RouterReady", ready: "False/RouterStarting", message: "not reported yet"},
		{name: "crash loop before the settings changed", group: func(g *v1alpha1.WorkerGroup) { looping(g); g.Status.Router.ObservedGeneration-- }, pods: []corev1.Pod{newPod()}, router: "True/RouterReady", ready: "True/WorkersReady", message: "2 of 2"},
		{name: "another router's word", group: func(g *v1alpha1.WorkerGroup) { g.Status.Router.PodUID = "old" }, pods: []corev1.Pod{newPod()}, router: "True/RouterReady", ready: "False/RouterStarting", message: "not reported yet"},
		{name: "another pod", group: func(g *v1alpha1.WorkerGroup) { g.Spec.PodUID = "" }, pods: []corev1.Pod{newPod()}, router: "False/RouterStarting", ready: "False/RouterStarting", message: "takes over"},
		{name: "silent", pods: []corev1.Pod{newPod(unready)}, router: "False/RouterUnreachable", ready: "False/RouterUnreachable", message: "does not answer (kubectl logs demo-r1-0-0 -c router)"},
		{name: "first worker", group: func(g *v1alpha1.WorkerGroup) { g.Status.Router = nil }, pods: []corev1.Pod{newPod(unready)}, router: "False/RouterStarting", ready: "False/RouterStarting", message: "waits for its first worker"},
		{name: "pull", pods: []corev1.Pod{newPod(waits("worker", "ErrImagePull", "failed to pull: not found"))}, router: "False/ImagePullFailed", ready: "False/ImagePullFailed", message: "image img:1 of container worker in pod demo-r1-0-0 cannot be pulled: the registry does not have it"},
		{name: "pull again", pods: []corev1.Pod{newPod(waits("worker", "ImagePullBackOff", `Back-off pulling image "img:1": ErrImagePull: failed to pull: not found`))}, router: "False/ImagePullFailed", ready: "False/ImagePullFailed", message: "image img:1 of container worker in pod demo-r1-0-0 cannot be pulled: the registry does not have it"},
		{name: "no such secret", pods: []corev1.Pod{newPod(waits("worker", "CreateContainerConfigError", `secret "db" not found`))}, router: "False/ContainerConfigInvalid", ready: "False/ContainerConfigInvalid", message: `container worker of pod demo-r1-0-0 cannot be made: secret "db" not found. Make it`},
		{name: "crash loop", pods: []corev1.Pod{newPod(ends("worker", 3, "Error", ""), waits("worker", "CrashLoopBackOff", "back-off"))}, router: "False/ContainerCrashLooping", ready: "False/ContainerCrashLooping", message: "last with exit code 3, Error: read its last words (kubectl logs demo-r1-0-0 -c worker --previous)", alsoPresent: v1alpha1.ConditionStalled},
		{name: "crash loop, started again", pods: []corev1.Pod{newPod(ends("worker", 3, "Error", ""), unready)}, group: func(g *v1alpha1.WorkerGroup) { g.Status.Router = nil }, router: "False/ContainerCrashLooping", ready: "False/ContainerCrashLooping", message: "exit code 3", alsoPresent: v1alpha1.ConditionStalled},
		{name: "crashed once, then served", pods: []corev1.Pod{newPod(ends("worker", 3, "Error", ""), unready)}, router: "False/RouterUnreachable", ready: "False/RouterUnreachable", message: "does not answer"},
		{name: "memory", pods: []corev1.Pod{newPod(ends("worker", 137, "OOMKilled", ""), waits("worker", "CrashLoopBackOff", "back-off"))}, router: "False/OutOfMemory", ready: "False/OutOfMemory", message: "reaches its memory limit of 64Mi and is killed", alsoPresent: v1alpha1.ConditionStalled},
		{name: "another architecture", pods: []corev1.Pod{newPod(ends("worker", 255, "Error", "exec /usr/bin/python3: exec format error"), unready)}, group: func(g *v1alpha1.WorkerGroup) { g.Status.Router = nil }, router: "False/WrongArchitecture", ready: "False/WrongArchitecture", message: "not built for the processor of node n1", alsoPresent: v1alpha1.ConditionStalled},
		{name: "a user's init container is done", pods: []corev1.Pod{newPod(unready, func(p *corev1.Pod) {
			p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, corev1.ContainerStatus{Name: "init", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}})
		})}, router: "False/RouterUnreachable", ready: "False/RouterUnreachable", message: "does not answer"},
		{name: "setup hangs before the first is ready", group: func(g *v1alpha1.WorkerGroup) {
			looping(g)
			g.Status.Router.ReadyWorkers, g.Status.Conditions[0].Reason, g.Status.Conditions[0].Message = 0, v1alpha1.ReasonWorkersFailing, "worker demo-r1-0-0/0: STARTUP_TIMEOUT"
		}, pods: []corev1.Pod{newPod(unready)}, router: "False/RouterStarting", ready: "False/WorkersFailing", message: "worker demo-r1-0-0/0: STARTUP_TIMEOUT"},
		{name: "looping, and then evicted", group: looping, pods: []corev1.Pod{newPod(unready, evicted)}, router: "False/PodEvicted", ready: "False/PodEvicted", message: "evicted from node n1: The node was low on resource: memory. It is replaced; set requests for memory"},
		{name: "evicted for its disk", pods: []corev1.Pod{newPod(unready, evicted, func(p *corev1.Pod) {
			p.Status.Message = "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "
		})}, router: "False/PodEvicted", ready: "False/PodEvicted", message: "write less, mount a volume for it"},
		{name: "refused by the node", pods: []corev1.Pod{newPod(unready, evicted, func(p *corev1.Pod) { p.Status.Reason = "OutOfcpu" })}, router: "False/PodFailed", ready: "False/PodFailed", message: "ended on node n1: OutOfcpu"},
		{name: "drain", group: func(g *v1alpha1.WorkerGroup) {
			g.Spec.DrainRequest = &v1alpha1.DrainRequest{StartedAt: metav1.NewTime(now), Deadline: metav1.NewTime(now.Add(time.Minute)), Cause: "Deleted"}
		}, pods: []corev1.Pod{newPod()}, router: "True/RouterReady", ready: "True/WorkersReady", alsoPresent: v1alpha1.ConditionDraining},
		{name: "deleted", group: func(g *v1alpha1.WorkerGroup) { d := metav1.NewTime(now); g.DeletionTimestamp = &d }, pods: []corev1.Pod{newPod(func(p *corev1.Pod) { p.Spec.NodeName = "n1" })}, router: "True/RouterReady", ready: "False/Terminating", message: "pod demo-r1-0-0 on n1 is left, since 2026-01-01T12:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			group := newGroup()
			if c.group != nil {
				c.group(group)
			}
			obs := &observation{group: group, pods: c.pods}
			got := computeStatus(obs, c.refused, now)
			for kind, want := range map[string]string{v1alpha1.ConditionRouterReady: c.router, v1alpha1.ConditionReady: c.ready} {
				cond := meta.FindStatusCondition(got.Conditions, kind)
				if have := string(cond.Status) + "/" + cond.Reason; have != want || cond.ObservedGeneration != 4 {
					t.Errorf("%s is %s of generation %d, want %s: %s", kind, have, cond.ObservedGeneration, want, cond.Message)
				}
			}
			if m := meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionReady).Message; !strings.Contains(m, c.message) {
				t.Errorf("message %q does not say %q", m, c.message)
			}
			if c.alsoPresent != "" && meta.FindStatusCondition(got.Conditions, c.alsoPresent) == nil {
				t.Errorf("%s is absent", c.alsoPresent)
			}
			// The same look again says the same, transition times included, however much later.
			var routers []metav1.Condition
			for _, cond := range group.Status.Conditions {
				if routersConditions[cond.Type] {
					routers = append(routers, cond)
				}
			}
			group.Status.Conditions = append(routers, got.Conditions...)
			for _, later := range []time.Duration{0, time.Second, time.Minute, time.Hour} {
				if again := computeStatus(obs, c.refused, now.Add(later)); !sameStatus(got, again) {
					t.Errorf("not stable, %s later:\n%+v\n%+v", later, got, again)
				}
			}
			for _, cond := range got.Conditions {
				if routersConditions[cond.Type] {
					t.Errorf("the operator writes the router's %s", cond.Type)
				}
			}
		})
	}
}
