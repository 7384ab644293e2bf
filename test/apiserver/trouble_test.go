package apiserver

import (
	"fmt"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
)

func newScale() *autoscalingv1.Scale { return &autoscalingv1.Scale{} }

// An adapter that cannot be imported is named with type, place and the command that shows the rest, though its pod is not Ready.
func TestAdapterFailed(t *testing.T) {
	s := begin(t)
	pool := s.pool("broken", 2, image(standin.ImageBroken))
	s.expect(pool, v1alpha1.ConditionAdapterLoaded, metav1.ConditionFalse, v1alpha1.ReasonAdapterFailed, "ModuleNotFoundError at app.py:3")
	pod := s.onlyPod(pool)
	s.expect(pool, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonAdapterFailed,
		fmt.Sprintf("worker %s: ModuleNotFoundError at app.py:3 (kubectl logs %s -c worker)", pod.Name, pod.Name))
	s.change(pool, image("works"))
	s.ready(pool)
	s.expect(pool, v1alpha1.ConditionAdapterLoaded, metav1.ConditionTrue, v1alpha1.ReasonAdapterLoaded, "")
	if c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionStalled); c != nil {
		t.Errorf("still Stalled: %s", c.Message)
	}
}

// Workers that die again and again make the pool Stalled, which kstatus reads as Failed, until they hold.
func TestCrashLoop(t *testing.T) {
	s := begin(t)
	pool := s.pool("loop", 2, image(standin.ImageLooping))
	s.expect(pool, v1alpha1.ConditionStalled, metav1.ConditionTrue, v1alpha1.ReasonCrashLooping, "EXITED exit code 3 (kubectl logs loop-")
	s.expect(pool, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonCrashLooping, "workers die again and again")
	s.expectEvent(v1alpha1.ReasonCrashLooping, "workers die again and again")
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.Crash.MaxRestarts = standin.LoopingDeaths })
	s.ready(pool)
	if c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionStalled); c != nil {
		t.Errorf("still Stalled: %s", c.Message)
	}
	s.expectEvent(v1alpha1.ReasonCrashLooping, "")
}

// A Service of the same name that is somebody else's is never touched; the pool says so and goes on when the name is free.
func TestNameTaken(t *testing.T) {
	s := begin(t)
	foreign := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "taken"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	s.must(server.Client.Create(s.ctx, foreign))
	pool := s.pool("taken", 1)
	s.expect(pool, v1alpha1.ConditionStalled, metav1.ConditionTrue, v1alpha1.ReasonNameTaken, "Service taken exists and is not this pool's")
	version := foreign.ResourceVersion
	s.must(s.get(foreign))
	if foreign.ResourceVersion != version {
		t.Error("the foreign Service was changed")
	}
	if pods := s.pods(pool); len(pods) != 0 {
		t.Errorf("%d pods were made that nobody can reach", len(pods))
	}
	s.must(server.Client.Delete(s.ctx, foreign))
	s.ready(pool)
	if c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionStalled); c != nil {
		t.Errorf("still Stalled: %s", c.Message)
	}
}

// Deleting a pool whose names are taken leaves the foreign object alone.
func TestDeleteWithTakenName(t *testing.T) {
	s := begin(t)
	foreign := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "taken"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	s.must(server.Client.Create(s.ctx, foreign))
	pool := s.pool("taken", 1)
	s.expect(pool, v1alpha1.ConditionStalled, metav1.ConditionTrue, v1alpha1.ReasonNameTaken, "")
	s.must(server.Client.Delete(s.ctx, pool))
	s.gone(pool)
	s.must(s.get(foreign))
}

// A Service that the API server refuses is a condition with its own words.
func TestChildRejected(t *testing.T) {
	s := begin(t)
	none := corev1.ResourceList{corev1.ResourceServices: resource.MustParse("0")}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: none}}
	s.must(server.Client.Create(s.ctx, quota))
	quota.Status.Hard, quota.Status.Used = none, none
	s.must(server.Client.Status().Update(s.ctx, quota))
	pool := s.pool("refused", 1)
	s.expect(pool, v1alpha1.ConditionStalled, metav1.ConditionTrue, v1alpha1.ReasonChildRejected, "exceeded quota")
	s.must(server.Client.Delete(s.ctx, quota))
	s.ready(pool)
}

// A pod that cannot be proven gone holds the pool, says so and how to force; forcing removes it and says what may still run where.
func TestForcedCleanup(t *testing.T) {
	s := begin(t)
	pool := s.pool("stuck", 1, image(standin.ImageStuck))
	s.ready(pool)
	pod := s.onlyPod(pool)
	s.must(server.Client.Delete(s.ctx, pool))
	s.expect(pool, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTerminating, "pod "+pod.Name+" on "+standin.Node+" is left, since")
	s.change(pool, func(p *v1alpha1.WorkerPool) {
		p.Annotations = map[string]string{v1alpha1.AnnotationForceCleanup: "another-uid"}
	})
	s.expect(pool, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTerminating, "To force")
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Annotations[v1alpha1.AnnotationForceCleanup] = string(p.UID) })
	s.gone(pool)
	s.expectEvent(v1alpha1.EventCleanupForced, "may still run on node "+standin.Node)
}

// Events say each change once.
func TestEvents(t *testing.T) {
	s := begin(t)
	pool := s.pool("told", 1)
	s.ready(pool)
	s.must(server.Client.Delete(s.ctx, pool))
	s.gone(pool)
	for _, reason := range []string{v1alpha1.EventGroupCreated, v1alpha1.EventPodCreated, v1alpha1.EventDrainStarted, v1alpha1.EventGroupDeleted, v1alpha1.EventPodDeleted} {
		s.expectEvent(reason, "")
	}
}

// expectEvent waits for exactly one Event of this reason.
func (s *scene) expectEvent(reason, text string) {
	s.t.Helper()
	fixture.Eventually(s.t, limit, "Event "+reason, func() error {
		var list eventsv1.EventList
		if err := server.Client.List(s.ctx, &list, client.InNamespace(s.namespace)); err != nil {
			return err
		}
		n := 0
		for _, e := range list.Items {
			if e.Reason == reason && (text == "" || strings.Contains(e.Note, text)) {
				n++
			}
		}
		if n != 1 {
			return fmt.Errorf("%d of %d Events", n, len(list.Items))
		}
		return nil
	})
}

// Ready turns False only when workers have been missing for a while, and not during the replacement of one.
func TestReadyWaits(t *testing.T) {
	s := begin(t)
	pool := s.pool("patient", 1)
	s.ready(pool)
	old := s.onlyPod(pool)
	began := time.Now()
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Annotations = map[string]string{"touched": "yes"} })
	s.must(server.Client.Delete(s.ctx, &old))
	fixture.Eventually(t, limit, "WorkersAvailable falls or the pod is replaced", func() error {
		s.must(s.get(pool))
		if c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue && time.Since(began) < 5*time.Second {
			t.Fatalf("Ready=%s/%s %s after the pod's end", c.Status, c.Reason, time.Since(began))
		}
		if pods := s.pods(pool); len(pods) == 1 && pods[0].UID != old.UID && pool.Status.ReadyWorkers == 1 {
			return nil
		}
		return fmt.Errorf("not replaced yet")
	})
	s.ready(pool)
}
