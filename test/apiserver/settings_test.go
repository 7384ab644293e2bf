package apiserver

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/resources"
	"github.com/snakepit-k8s/snakepit/router/membership"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
)

// settings are values that differ from the defaults, by path.
var settings = map[string]any{
	"protocol":                "Snakepit",
	"profile":                 "Thread",
	"slots":                   int64(8),
	"drain.timeout":           "7s",
	"sessions.affinity":       "Hint",
	"sessions.maxPerWorker":   int64(3),
	"sessions.idleTimeout":    "7m",
	"queue.maxLength":         int64(7),
	"queue.perSession":        int64(7),
	"queue.timeout":           "7s",
	"queue.shares":            []any{map[string]any{"tenant": "team/a", "weight": int64(7)}},
	"calls.timeout":           "7s",
	"calls.killAfter":         "7s",
	"calls.streamTimeout":     "7s",
	"calls.streamIdleTimeout": "7s",
	"calls.maxMessageBytes":   int64(7777),
	"startup.method":          "Spawn",
	"startup.batchSize":       int64(7),
	"startup.batchInterval":   "0s",
	"startup.timeout":         "7s",
	"heartbeat.interval":      "7s",
	"heartbeat.timeout":       "77s",
	"heartbeat.missed":        int64(7),
	"crash.maxRestarts":       int64(7),
	"crash.window":            "7s",
	"crash.backoff":           "7s",
	"crash.maxBackoff":        "77s",
	"crash.quarantine":        "0s",
	"crash.exposeMessages":    true,
	"recycle.maxAge":          "7h",
	"recycle.maxRequests":     int64(7),
	"recycle.maxMemory":       "7Gi",
	"recycle.jitter":          int64(0),
	"recycle.deadline":        "7s",
	"cleanup.timeout":         "7m",
}

// podSettings are made of the pod; a change of one makes another.
var podSettings = map[string]bool{"protocol": true, "profile": true, "slots": true, "drain.timeout": true}

func put(t interface{ Fatal(...any) }, into map[string]any, path string, value any) {
	if err := unstructured.SetNestedField(into, value, fieldPath(path)...); err != nil {
		t.Fatal(err)
	}
}

// A router without an API server (a file, or an outage) has the same defaults as one with: whatever part of the spec is given, the API
// server and membership.Default make the same of it.
func TestDefaultsOfBothSides(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := map[string]any{"poolName": "p", "workers": int64(1), "revision": "r", "image": "i:1", "adapter": "a:B"}
		for path, value := range settings {
			if rapid.Bool().Draw(t, path) {
				put(t, spec, path, value)
			}
		}
		want := v1alpha1.WorkerGroupSpec{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(runtime.DeepCopyJSON(spec), &want); err != nil {
			t.Fatal(err)
		}
		group := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
		group.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkerGroup"))
		group.SetNamespace("default")
		group.SetName("drawn")
		if err := server.Client.Create(serverContext, group, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
			t.Fatal(err)
		}
		got := v1alpha1.WorkerGroup{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(group.Object, &got); err != nil {
			t.Fatal(err)
		}
		membership.Default(&want)
		got.Spec.Sessions.Creation = want.Sessions.Creation // follows from the affinity: the operator resolves it
		if !equality.Semantic.DeepEqual(got.Spec, want) {
			t.Fatalf("the API server gives\n%+v, Default\n%+v", got.Spec, want)
		}
	})
}

// Every live setting reaches the group, and is taken from it when it is taken from the pool, while the pod stays.
func TestLiveSettings(t *testing.T) {
	s := begin(t)
	pool := s.pool("live", 2, optional)
	s.ready(pool)
	pod := s.onlyPod(pool)
	s.must(s.get(pool))
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.LiveSettings = v1alpha1.LiveSettings{} })
	s.follows(pool, "the settings without a default that the group was made with")
	for path := range settings {
		if !podSettings[path] {
			s.follow(pool, path, settings[path])
		}
	}
	s.ready(pool)
	for path := range settings {
		if !podSettings[path] {
			s.follow(pool, path, nil)
		}
	}
	s.ready(pool)
	if after := s.onlyPod(pool); after.UID != pod.UID {
		t.Errorf("pod %s became %s", pod.UID, after.UID)
	}
}

// follow sets one field of the pool, or takes it away, and waits until the group has it so.
func (s *scene) follow(pool *v1alpha1.WorkerPool, path string, value any) {
	s.t.Helper()
	change := map[string]any{}
	put(s.t, change, "spec."+path, value)
	s.must(server.Client.Patch(s.ctx, pool, mergePatch(s.t, change)))
	s.follows(pool, fmt.Sprintf("%s=%v", path, value))
}

// optional gives a pool every live setting that has no default.
func optional(p *v1alpha1.WorkerPool) {
	p.Spec.Calls.StreamIdleTimeout = &metav1.Duration{Duration: time.Minute}
	p.Spec.Recycle = v1alpha1.RecycleSettings{
		MaxAge: &metav1.Duration{Duration: time.Hour}, MaxRequests: 5, MaxMemory: ptr.To(resource.MustParse("1Gi")), Jitter: ptr.To[int32](0),
	}
	p.Spec.Queue.Shares = []v1alpha1.TenantShare{{Tenant: "a", Weight: 2}, {Tenant: "b", Weight: 3}}
}

func (s *scene) follows(pool *v1alpha1.WorkerPool, what string) {
	s.t.Helper()
	fixture.Eventually(s.t, limit, what+" reaches the group", func() error {
		group := s.group(pool)
		if want := resources.Live(pool); !equality.Semantic.DeepEqual(group.Spec.LiveSettings, want) {
			return fmt.Errorf("the group has %+v, the pool %+v", group.Spec.LiveSettings, want)
		}
		return nil
	})
}

// An object that an operator before this one made has no new field; the defaults it gets restart nothing.
func TestUpgradeRestartsNothing(t *testing.T) {
	s := begin(t)
	pool := s.pool("older", 1)
	s.ready(pool)
	pod, group := s.onlyPod(pool), s.group(pool)
	s.stop()
	s.must(server.Client.Patch(s.ctx, pool, mergePatch(t, map[string]any{"spec": map[string]any{
		"profile": nil, "slots": nil, "heartbeat": nil, "startup": nil,
	}})))
	s.start()
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.Workers = 2 })
	s.ready(pool)
	if after := s.onlyPod(pool); after.UID != pod.UID {
		t.Errorf("pod %s became %s", pod.UID, after.UID)
	}
	if after := s.group(pool); after.UID != group.UID || after.Spec.Revision != group.Spec.Revision {
		t.Errorf("group %s of revision %s became %s of %s", group.UID, group.Spec.Revision, after.UID, after.Spec.Revision)
	}
}

// Threads are in the pod: its environment says how many, and going back makes a pod without.
func TestThreads(t *testing.T) {
	s := begin(t)
	pool := s.pool("threads", 1, func(p *v1alpha1.WorkerPool) { p.Spec.Profile, p.Spec.Slots = v1alpha1.ProfileThread, 8 })
	s.ready(pool)
	if pod := s.onlyPod(pool); environment(pod, v1alpha1.EnvSlots) != "8" {
		t.Errorf("environment %v", pod.Spec.Containers[0].Env)
	}
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.Profile, p.Spec.Slots = v1alpha1.ProfileProcess, 0 })
	fixture.Eventually(t, limit, "a pod without slots", func() error {
		if pods := s.pods(pool); len(pods) == 1 && environment(pods[0], v1alpha1.EnvSlots) == "" {
			return nil
		}
		return fmt.Errorf("conditions: %s", fixture.Conditions(pool.Status.Conditions))
	})
	s.ready(pool)
}

// The annotation reaches the group, each text once and whole, and the status says how far it is and what is wrong with it.
func TestRecycleAnnotation(t *testing.T) {
	s := begin(t)
	pool := s.pool("recycled", 2, image(standin.ImageLasting), func(p *v1alpha1.WorkerPool) {
		p.Annotations = map[string]string{v1alpha1.AnnotationRecycle: "first: 0,1"}
	})
	s.ready(pool)
	pod := s.onlyPod(pool)
	asked := func(text string, want *v1alpha1.RecycleRequest) {
		t.Helper()
		s.must(server.Client.Patch(s.ctx, pool, mergePatch(t, map[string]any{"metadata": map[string]any{"annotations": map[string]any{v1alpha1.AnnotationRecycle: text}}})))
		fixture.Eventually(t, limit, fmt.Sprintf("%q is what the group is asked", text), func() error {
			if got := s.group(pool).Spec.RecycleRequest; !equality.Semantic.DeepEqual(got, want) {
				return fmt.Errorf("the group has %+v, want %+v", got, want)
			}
			return nil
		})
	}
	asked("first: 0,1", &v1alpha1.RecycleRequest{ID: "first: 0,1", Slots: []int32{0, 1}})
	asked("", nil)
	asked("first: 0,1", &v1alpha1.RecycleRequest{ID: "first: 0,1", Slots: []int32{0, 1}})
	asked("second", &v1alpha1.RecycleRequest{ID: "second"}) // all workers: the slots of the first are gone
	s.expect(pool, v1alpha1.ConditionRecycling, metav1.ConditionTrue, v1alpha1.ReasonRecycling, `request "second"`)
	asked("third: 1", &v1alpha1.RecycleRequest{ID: "third: 1", Slots: []int32{1}})
	asked("bad: x", nil)
	s.expect(pool, v1alpha1.ConditionRecycling, metav1.ConditionFalse, v1alpha1.ReasonRecycleRequestInvalid, "or TEXT: 0,3 for those in slots 0 and 3 (0 to 255)")
	s.expectEvent(v1alpha1.ReasonRecycleRequestInvalid, "write any text")
	asked("", nil)
	s.ready(pool)
	if after := s.onlyPod(pool); after.UID != pod.UID {
		t.Errorf("pod %s became %s", pod.UID, after.UID)
	}
}

// A request that the router has carried out is an Event, and no condition any more.
func TestRecycleCompleted(t *testing.T) {
	s := begin(t)
	pool := s.pool("fresh", 1)
	s.ready(pool)
	s.change(pool, func(p *v1alpha1.WorkerPool) {
		p.Annotations = map[string]string{v1alpha1.AnnotationRecycle: "weights 7"}
	})
	s.expectEvent(v1alpha1.EventRecycled, `"weights 7" is complete`)
	s.ready(pool)
	if c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionRecycling); c != nil {
		t.Errorf("still %s: %s", c.Reason, c.Message)
	}
}
