package metrics

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

func pool(name string, workers int32, conditions ...metav1.Condition) *v1alpha1.WorkerPool {
	p := &v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	p.Spec.Workers, p.Status.Conditions = workers, conditions
	return p
}

func condition(kind string, status metav1.ConditionStatus, reason string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: reason}
}

// group has a router that reported these workers from its pod "a"; podUID is the pod that counts.
func group(name, ofPool string, podUID types.UID, states ...v1alpha1.WorkerState) *v1alpha1.WorkerGroup {
	g := &v1alpha1.WorkerGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{v1alpha1.LabelPool: ofPool}}}
	g.Spec.PodUID = podUID
	g.Status.Router = &v1alpha1.RouterStatus{PodUID: "a"}
	for i, s := range states {
		g.Status.Router.Workers = append(g.Status.Router.Workers, v1alpha1.WorkerStatus{Slot: int32(i), State: s})
	}
	return g
}

func cache(t *testing.T, objects ...client.Object) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
}

func elected() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func TestState(t *testing.T) {
	good := pool("good", 3, condition("Ready", metav1.ConditionTrue, "WorkersReady"))
	bad := pool("bad", 1, condition("Ready", metav1.ConditionFalse, "CrashLooping"), condition("Stalled", metav1.ConditionTrue, "CrashLooping"))
	c := cache(t, good, bad,
		group("good-1-0", "good", "a", v1alpha1.WorkerReady, v1alpha1.WorkerReady, v1alpha1.WorkerSuspect),
		group("good-1-1", "good", "b", v1alpha1.WorkerReady)) // its pod is not the one that reported
	registry := prometheus.NewPedanticRegistry()
	m := New(registry)
	m.Watch(c, elected())
	names := []string{"snakepit_operator_pools", "snakepit_operator_pool_ready", "snakepit_operator_pool_stalled", "snakepit_operator_workers_wanted"}
	want := `
# HELP snakepit_operator_pool_ready 1 when the pool's condition Ready is True, else 0. Only the leader tells.
# TYPE snakepit_operator_pool_ready gauge
snakepit_operator_pool_ready{namespace="ns",pool="bad"} 0
snakepit_operator_pool_ready{namespace="ns",pool="good"} 1
# HELP snakepit_operator_pool_stalled 1 for a pool that waits for somebody to act, by reason; absent for others. Only the leader tells.
# TYPE snakepit_operator_pool_stalled gauge
snakepit_operator_pool_stalled{namespace="ns",pool="bad",reason="CrashLooping"} 1
# HELP snakepit_operator_pools Pools by condition, its status and reason. Only the leader tells.
# TYPE snakepit_operator_pools gauge
snakepit_operator_pools{condition="Ready",reason="CrashLooping",status="False"} 1
snakepit_operator_pools{condition="Ready",reason="WorkersReady",status="True"} 1
snakepit_operator_pools{condition="Stalled",reason="CrashLooping",status="True"} 1
# HELP snakepit_operator_workers_wanted Workers that a pool wants. Only the leader tells.
# TYPE snakepit_operator_workers_wanted gauge
snakepit_operator_workers_wanted{namespace="ns",pool="bad"} 1
snakepit_operator_workers_wanted{namespace="ns",pool="good"} 3
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	workers := gathered(t, registry, "snakepit_operator_workers")
	for _, line := range []string{"ns good Ready 2", "ns good Suspect 1", "ns good Failed 0", "ns bad Ready 0"} {
		if !slices.Contains(workers, line) {
			t.Errorf("no %q in %q", line, workers)
		}
	}
	// A pool that is gone leaves nothing behind.
	for _, p := range []client.Object{good, bad} {
		if err := c.Delete(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(""), append(names, "snakepit_operator_workers")...); err != nil {
		t.Errorf("after the pools are gone: %v", err)
	}
}

// Who does not lead has the same cache and must not tell the same pools again.
func TestOnlyTheLeaderTells(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := New(registry)
	m.Watch(cache(t, pool("it", 1)), make(chan struct{}))
	if lines := gathered(t, registry, "snakepit_operator_pool_ready"); len(lines) > 0 {
		t.Errorf("told without leading: %q", lines)
	}
}

func TestCounts(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := New(registry)
	for range 2 {
		m.PodReady("g", "a", time.Second) // Ready again is no second start
	}
	m.PodReady("g", "b", time.Second)
	m.Released(KindGroup, "g", time.Minute)
	m.PodReady("g", "b", time.Second) // what is released is forgotten
	m.PoolReady(2 * time.Second)
	m.Orphan()
	m.Forced()
	m.Refused(KindPod)
	for name, want := range map[string]string{
		"snakepit_operator_pod_ready_duration_seconds":  "n=3",
		"snakepit_operator_pool_ready_duration_seconds": "n=1",
		"snakepit_orphans_found_total":                  "1",
		"snakepit_operator_forced_cleanups_total":       "1",
		"snakepit_operator_writes_refused_total":        "Pod 1",
	} {
		if got := gathered(t, registry, name); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := gathered(t, registry, "snakepit_operator_cleanup_duration_seconds"); !slices.Equal(got, []string{"WorkerGroup n=1", "WorkerPool n=0"}) {
		t.Errorf("cleanups: %q", got)
	}
	var none *Metrics
	none.PodReady("g", "a", 0)
	none.Orphan()
}
