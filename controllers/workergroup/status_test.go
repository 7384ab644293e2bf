package workergroup

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
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

func waits(container, reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		unready(p)
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: container, Image: "img:1", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}}
	}
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
		{name: "some start", group: func(g *v1alpha1.WorkerGroup) { g.Status.Router.ReadyWorkers = 1 }, pods: []corev1.Pod{newPod()}, router: "True/RouterReady", ready: "False/WorkersStarting", message: "1 of 2 workers not ready"},
		{name: "none wanted", group: func(g *v1alpha1.WorkerGroup) { g.Spec.Workers, g.Status.Router.ReadyWorkers = 0, 0 }, pods: []corev1.Pod{newPod()}, router: "True/RouterReady", ready: "True/ScaledToZero", message: "no worker is wanted"},
		{name: "crash loop of workers", group: looping, pods: []corev1.Pod{newPod()}, router: "True/RouterReady", ready: "False/CrashLooping", message: "again and again", alsoPresent: v1alpha1.ConditionStalled},
		{name: "crash loop before the first is ready", group: looping, pods: []corev1.Pod{newPod(unready)}, router: "False/RouterUnreachable", ready: "False/CrashLooping", message: "again and again", alsoPresent: v1alpha1.ConditionStalled},
		{name: "crash loop in an earlier pod", group: func(g *v1alpha1.WorkerGroup) { looping(g); g.Status.Router.PodUID = "old" }, pods: []corev1.Pod{newPod()}, router: "True/RouterReady", ready: "False/RouterStarting", message: "not reported yet"},
		{name: "another router's word", group: func(g *v1alpha1.WorkerGroup) { g.Status.Router.PodUID = "old" }, pods: []corev1.Pod{newPod()}, router: "True/RouterReady", ready: "False/RouterStarting", message: "not reported yet"},
		{name: "another pod", group: func(g *v1alpha1.WorkerGroup) { g.Spec.PodUID = "" }, pods: []corev1.Pod{newPod()}, router: "False/RouterStarting", ready: "False/RouterStarting", message: "takes over"},
		{name: "silent", pods: []corev1.Pod{newPod(unready)}, router: "False/RouterUnreachable", ready: "False/RouterUnreachable", message: "does not answer (kubectl logs demo-r1-0-0 -c router)"},
		{name: "first worker", group: func(g *v1alpha1.WorkerGroup) { g.Status.Router = nil }, pods: []corev1.Pod{newPod(unready)}, router: "False/RouterStarting", ready: "False/RouterStarting", message: "waits for its first worker"},
		{name: "pull", pods: []corev1.Pod{newPod(waits("worker", "ErrImagePull"))}, router: "False/ImagePullFailed", ready: "False/ImagePullFailed", message: "image img:1 of container worker"},
		{name: "pull again", pods: []corev1.Pod{newPod(waits("worker", "ImagePullBackOff"))}, router: "False/ImagePullFailed", ready: "False/ImagePullFailed", message: "image img:1 of container worker"},
		{name: "crash loop", pods: []corev1.Pod{newPod(waits("worker", "CrashLoopBackOff"))}, router: "False/PodFailed", ready: "False/PodFailed", message: "kubectl logs demo-r1-0-0 -c worker --previous"},
		{name: "config", pods: []corev1.Pod{newPod(waits("worker", "CreateContainerConfigError"))}, router: "False/PodFailed", ready: "False/PodFailed", message: "CreateContainerConfigError"},
		{name: "evicted", pods: []corev1.Pod{newPod(unready, func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted" })}, router: "False/PodFailed", ready: "False/PodFailed", message: "ended: Evicted"},
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
			// The same look again, an hour later, says the same, transition times included.
			var routers []metav1.Condition
			for _, cond := range group.Status.Conditions {
				if routersConditions[cond.Type] {
					routers = append(routers, cond)
				}
			}
			group.Status.Conditions = append(routers, got.Conditions...)
			if again := computeStatus(obs, c.refused, now.Add(time.Hour)); !sameStatus(got, again) {
				t.Errorf("not stable:\n%+v\n%+v", got, again)
			}
			for _, cond := range got.Conditions {
				if routersConditions[cond.Type] {
					t.Errorf("the operator writes the router's %s", cond.Type)
				}
			}
		})
	}
}
