package workerpool

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/plan"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/resources"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// look is an observation of a pool with two ready workers; edits change it.
func look(t *testing.T, edits ...func(*observation)) *observation {
	t.Helper()
	pool := &v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "demo", UID: "pool-uid", Generation: 3}}
	pool.Spec.Workers, pool.Spec.Image, pool.Spec.Adapter = 2, "i:1", "a:B"
	revision, err := resources.Revision(&pool.Spec.PodSettings)
	if err != nil {
		t.Fatal(err)
	}
	group := *resources.MakeGroup(pool, revision, 0)
	group.UID, group.Generation, group.Spec.PodUID, group.Spec.NextPod, group.Status.PodName = "g", 2, "p", 1, group.Name+"-0"
	group.Status.Router = &v1alpha1.RouterStatus{PodUID: "p", ReadyWorkers: 2, ObservedGeneration: 2, Sessions: 3, BusyWorkers: 1,
		Workers: []v1alpha1.WorkerStatus{{Slot: 0, State: v1alpha1.WorkerReady}, {Slot: 1, State: v1alpha1.WorkerReady}}}
	group.Status.Conditions = []metav1.Condition{
		{Type: v1alpha1.ConditionRouterReady, Status: metav1.ConditionTrue, ObservedGeneration: 2, Reason: v1alpha1.ReasonRouterReady},
		{Type: v1alpha1.ConditionAdapterLoaded, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAdapterLoaded},
	}
	obs := &observation{pool: pool, revision: revision, groups: []v1alpha1.WorkerGroup{group}}
	for _, edit := range edits {
		edit(obs)
	}
	return obs
}

func routerDown(o *observation) {
	o.groups[0].Status.Conditions[0] = metav1.Condition{Type: v1alpha1.ConditionRouterReady, Status: metav1.ConditionFalse, ObservedGeneration: 2, Reason: v1alpha1.ReasonImagePullFailed, Message: "image i:1"}
}

func fewer(o *observation) { o.groups[0].Status.Router.ReadyWorkers = 1 }

func draining(o *observation) {
	o.groups[0].Spec.DrainRequest = &v1alpha1.DrainRequest{StartedAt: metav1.NewTime(now), Deadline: metav1.NewTime(now.Add(time.Minute)), Cause: "Replaced"}
}

// drainedFor is a drain of this cause that began so long ago.
func drainedFor(cause string, since, limit time.Duration) func(*observation) {
	return func(o *observation) {
		start := now.Add(-since)
		o.groups[0].Spec.DrainRequest = &v1alpha1.DrainRequest{StartedAt: metav1.NewTime(start), Deadline: metav1.NewTime(start.Add(limit)), Cause: cause}
	}
}

func onNode(down bool) func(*observation) {
	return func(o *observation) {
		at := place{pod: o.groups[0].Status.PodName, node: plan.Node{Name: "n1"}, runs: true}
		if down {
			at.node.DownSince = now.Add(-20 * time.Second)
		}
		o.places = map[types.UID]place{"g": at}
	}
}

// succeeded puts a group that serves beside the first one.
func succeeded(o *observation) {
	next := *o.groups[0].DeepCopy()
	next.Name, next.UID, next.Spec.DrainRequest, next.DeletionTimestamp = next.Name+"x", "g2", nil, nil
	o.groups = append(o.groups, next)
}

func deletedGroup(o *observation) {
	d := metav1.NewTime(now.Add(-time.Hour))
	o.groups[0].DeletionTimestamp = &d
}

func asked(reason string) func(*observation) {
	return func(o *observation) { o.pool.Annotations = map[string]string{v1alpha1.AnnotationDrain: reason} }
}

func looping(o *observation) {
	o.groups[0].Status.Conditions = append(o.groups[0].Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionStalled, Status: metav1.ConditionTrue, ObservedGeneration: 2,
		Reason: v1alpha1.ReasonCrashLooping, Message: "workers die again and again: worker demo/1: STUCK"})
}

func deleting(o *observation) { d := metav1.NewTime(now); o.pool.DeletionTimestamp = &d }

// before gives the pool a status as an earlier look wrote it.
func before(generation int64, ready metav1.ConditionStatus, availableSince time.Time) func(*observation) {
	return func(o *observation) {
		o.pool.Status.Conditions = []metav1.Condition{
			{Type: v1alpha1.ConditionReady, Status: ready, ObservedGeneration: generation, Reason: "Was", Message: "was", LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))},
			{Type: v1alpha1.ConditionWorkersAvailable, Status: metav1.ConditionFalse, LastTransitionTime: metav1.NewTime(availableSince)},
		}
	}
}

func TestStatus(t *testing.T) {
	const absent = ""
	for _, c := range []struct {
		name                        string
		edits                       []func(*observation)
		ready, reconciling, stalled string
		draining                    string // not compared when empty
		message                     string
		summary                     string
		again                       time.Time
	}{
		{name: "ready", ready: "True/WorkersReady", summary: "2/2", message: "2 of 2 workers ready"},
		{name: "no group", edits: []func(*observation){func(o *observation) { o.groups = nil }}, ready: "False/RouterStarting", reconciling: "True/Progressing", summary: "0/2"},
		{name: "router down", edits: []func(*observation){routerDown}, ready: "False/ImagePullFailed", reconciling: "True/Progressing", summary: "0/2", message: "image i:1"},
		{name: "workers start", edits: []func(*observation){fewer}, ready: "False/WorkersStarting", reconciling: "True/Progressing", summary: "1/2", message: "1 of 2 workers of pod "},
		{name: "workers fail", edits: []func(*observation){fewer, func(o *observation) {
			o.groups[0].Status.Router.Workers[1] = v1alpha1.WorkerStatus{Slot: 1, State: v1alpha1.WorkerFailed, LastError: "ValueError, app.py:9"}
		}}, ready: "False/WorkersFailing", reconciling: "True/Progressing", summary: "1/2", message: "/1: ValueError, app.py:9 (kubectl logs"},
		{name: "a worker is stuck", edits: []func(*observation){fewer, func(o *observation) {
			o.groups[0].Status.Router.Workers[1] = v1alpha1.WorkerStatus{Slot: 1, State: v1alpha1.WorkerFailed, LastError: "STUCK signal 9", LastExit: &v1alpha1.WorkerExit{Reason: v1alpha1.ExitStuck}}
		}}, ready: "False/WorkersFailing", reconciling: "True/Progressing", summary: "1/2", message: "/1: STUCK signal 9; it gave no sign of life and used no CPU time; its stacks are in the log (kubectl logs"},
		{name: "the router lags", edits: []func(*observation){func(o *observation) { o.groups[0].Generation = 3 }}, ready: "True/WorkersReady", reconciling: "True/Progressing", summary: "2/2"},
		{name: "an old router's word", edits: []func(*observation){func(o *observation) { o.groups[0].Spec.PodUID = "q" }}, ready: "False/RouterStarting", reconciling: "True/Progressing", summary: "0/2"},
		{name: "the group's controller lags", edits: []func(*observation){func(o *observation) {
			o.groups[0].Generation, o.groups[0].Status.Router.ObservedGeneration = 3, 3
		}}, ready: "True/WorkersReady", reconciling: "True/Progressing", summary: "2/2"},
		{name: "another pod was ready", edits: []func(*observation){func(o *observation) {
			// The router of the next pod speaks already, and the group's controller has not looked yet.
			o.groups[0].Spec.PodUID, o.groups[0].Spec.NextPod, o.groups[0].Status.Router.PodUID = "q", 2, "q"
		}}, ready: "False/RouterStarting", reconciling: "True/Progressing", summary: "0/2", message: "has another pod than the one that was ready"},
		{name: "a group of an earlier operator", edits: []func(*observation){func(o *observation) { o.groups[0].Spec.NextPod = 0 }}, ready: "True/WorkersReady", summary: "2/2"},
		{name: "none wanted", edits: []func(*observation){func(o *observation) {
			o.pool.Spec.Workers, o.groups[0].Spec.Workers, o.groups[0].Status.Router.ReadyWorkers = 0, 0, 0
		}}, ready: "True/ScaledToZero", summary: "0/0"},
		{name: "replaced", edits: []func(*observation){draining}, ready: "False/Draining", reconciling: "True/Replacing", summary: "0/2", message: "group demo-"},
		{name: "taken", edits: []func(*observation){func(o *observation) {
			o.groups, o.children = nil, []plan.Child{{Kind: plan.Service, Name: "demo", State: plan.Taken}}
		}}, ready: "False/NameTaken", stalled: "True/NameTaken", summary: "0/2", message: "Service demo exists and is not this pool's"},
		{name: "adapter failed", edits: []func(*observation){routerDown, func(o *observation) {
			o.groups[0].Status.Conditions[1] = metav1.Condition{Type: v1alpha1.ConditionAdapterLoaded, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonAdapterFailed, Message: "ImportError at a.py:1"}
		}}, ready: "False/AdapterFailed", stalled: "True/AdapterFailed", summary: "0/2", message: "ImportError at a.py:1 (kubectl logs"},
		{name: "crash loop", edits: []func(*observation){looping}, ready: "False/CrashLooping", stalled: "True/CrashLooping", summary: "2/2", message: "worker demo/1: STUCK"},
		{name: "crash loop of a pool that was ready", edits: []func(*observation){looping, before(3, metav1.ConditionTrue, now.Add(-time.Hour))}, ready: "False/CrashLooping", stalled: "True/CrashLooping", summary: "2/2"},
		{name: "crash loop, and the settings have changed since", edits: []func(*observation){looping, func(o *observation) { o.groups[0].Generation = 3 }},
			ready: "True/WorkersReady", reconciling: "True/Progressing", summary: "2/2"},
		{name: "not declared thread-safe", edits: []func(*observation){routerDown, func(o *observation) {
			o.groups[0].Status.Conditions[1] = metav1.Condition{Type: v1alpha1.ConditionAdapterLoaded, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonThreadSafetyNotDeclared, Message: "set thread_safe = True"}
		}}, ready: "False/ThreadSafetyNotDeclared", stalled: "True/ThreadSafetyNotDeclared", summary: "0/2", message: "set thread_safe = True"},
		{name: "refused", edits: []func(*observation){func(o *observation) { o.groups, o.refused = nil, "exceeded quota" }}, ready: "False/ChildRejected", stalled: "True/ChildRejected", summary: "0/2", message: "exceeded quota"},
		{name: "forced", edits: []func(*observation){deleting, draining, func(o *observation) {
			o.pool.Annotations = map[string]string{v1alpha1.AnnotationForceCleanup: "pool-uid"}
		}}, ready: "False/CleanupForced", summary: "0/2", message: "may still run"},
		{name: "deleted", edits: []func(*observation){deleting, draining}, ready: "False/Terminating", summary: "0/2", message: "To force: kubectl annotate wpool demo snakepit.dev/force-cleanup=pool-uid"},
		{name: "drained at request", edits: []func(*observation){asked("new racks\n"), func(o *observation) { o.groups = nil }}, ready: "False/Drained", summary: "0/2",
			message: `drained at request ("new racks"). For a fresh group: kubectl annotate wpool demo snakepit.dev/drain-`},
		{name: "draining at request", edits: []func(*observation){asked("new racks"), drainedFor(v1alpha1.DrainCauseRequested, 0, time.Minute)}, ready: "False/Draining",
			reconciling: "True/Replacing", draining: "True/Draining", summary: "0/2", message: "(Requested: new racks)"},
		{name: "node cordoned", edits: []func(*observation){onNode(false), drainedFor(v1alpha1.DrainCauseNodeDrained, 0, time.Minute)}, ready: "False/Draining",
			reconciling: "True/Replacing", draining: "True/Draining", summary: "0/2", message: "(NodeDrained: node n1)"},
		{name: "held, before its deadline", edits: []func(*observation){drainedFor(v1alpha1.DrainCauseReplaced, 29*time.Second, v1alpha1.HeldDrain)}, ready: "False/Draining",
			reconciling: "True/Replacing", draining: "True/Draining", summary: "0/2", message: "it ends when nothing is left"},
		{name: "held", edits: []func(*observation){drainedFor(v1alpha1.DrainCauseReplaced, 30*time.Second, v1alpha1.HeldDrain)}, ready: "False/Draining",
			reconciling: "True/Replacing", draining: "True/DrainHeld", summary: "0/2",
			message: `about 3 sessions and 1 busy workers are left. To end it: kubectl patch wpool demo --type merge -p '{"spec":{"drain":{"onDeadline":"Terminate"}}}'`},
		{name: "node down", edits: []func(*observation){onNode(true), routerDown}, ready: "False/RouterUnreachable", reconciling: "True/Progressing", summary: "0/2",
			message: "a successor is made at " + stamp(metav1.NewTime(now.Add(40*time.Second)))},
		{name: "the only node is down", edits: []func(*observation){onNode(true), routerDown, func(o *observation) {
			at := o.places["g"]
			at.node.Alone = true
			o.places["g"] = at
		}}, ready: "False/RouterUnreachable", reconciling: "True/Progressing", summary: "0/2", message: "no other node is Ready and takes pods"},
		{name: "node lost, the successor serves", edits: []func(*observation){onNode(true), drainedFor(v1alpha1.DrainCauseNodeLost, 0, 0), deletedGroup, succeeded},
			ready: "True/WorkersReady", draining: "True/NodeLost", summary: "2/2"},
		{name: "node lost, and the pool deleted", edits: []func(*observation){onNode(true), drainedFor(v1alpha1.DrainCauseNodeLost, 0, 0), deletedGroup, deleting},
			ready: "False/Terminating", draining: "True/NodeLost", stalled: "True/CleanupBlocked", summary: "0/2", message: "taint node n1 node.kubernetes.io/out-of-service"},
		{name: "a worker is replaced", edits: []func(*observation){fewer, before(3, metav1.ConditionTrue, now.Add(-2*time.Second))}, ready: "True/Was", summary: "1/2", again: now.Add(4 * time.Second)},
		{name: "a worker stays away", edits: []func(*observation){fewer, before(3, metav1.ConditionTrue, now.Add(-unreadyAfter))}, ready: "False/WorkersStarting", summary: "1/2"},
		{name: "a new generation is not ready yet", edits: []func(*observation){fewer, before(2, metav1.ConditionTrue, now)}, ready: "False/WorkersStarting", reconciling: "True/Progressing", summary: "1/2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			obs := look(t, c.edits...)
			got, again := computeStatus(obs, now)
			for kind, want := range map[string]string{v1alpha1.ConditionReady: c.ready, v1alpha1.ConditionReconciling: c.reconciling, v1alpha1.ConditionStalled: c.stalled} {
				have := absent
				if cond := meta.FindStatusCondition(got.Conditions, kind); cond != nil {
					have = string(cond.Status) + "/" + cond.Reason
				}
				if have != want {
					t.Errorf("%s is %q, want %q", kind, have, want)
				}
			}
			if c.draining != "" {
				if have := meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionDraining); have == nil || string(have.Status)+"/"+have.Reason != c.draining {
					t.Errorf("Draining is %+v, want %q", have, c.draining)
				}
			}
			if m := meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionReady).Message; !strings.Contains(m, c.message) {
				t.Errorf("message %q does not say %q", m, c.message)
			}
			if got.ReadySummary != c.summary {
				t.Errorf("%s ready, want %s", got.ReadySummary, c.summary)
			}
			if !again.Equal(c.again) {
				t.Errorf("looks again at %s, want %s", again, c.again)
			}
			for _, cond := range got.Conditions {
				if cond.ObservedGeneration != 3 || cond.Reason == "" {
					t.Errorf("%+v", cond)
				}
			}
			obs.pool.Status = got
			if second, _ := computeStatus(obs, now); !equality.Semantic.DeepEqual(got, second) {
				t.Errorf("not stable:\n%+v\n%+v", got, second)
			}
		})
	}
}

// Whether anything is written twice does not depend on what the status said before, its times apart.
func TestStatusIsComputedAnew(t *testing.T) {
	for name, edits := range map[string][]func(*observation){"ready": nil, "down": {routerDown}, "replaced": {draining}} {
		fresh, _ := computeStatus(look(t, edits...), now)
		obs := look(t, append(edits, before(1, metav1.ConditionUnknown, now))...)
		obs.pool.Status.Sessions, obs.pool.Status.ReadySummary = 99, "9/9"
		later, _ := computeStatus(obs, now)
		for i := range later.Conditions {
			later.Conditions[i].LastTransitionTime = metav1.Time{}
		}
		for i := range fresh.Conditions {
			fresh.Conditions[i].LastTransitionTime = metav1.Time{}
		}
		if !equality.Semantic.DeepEqual(fresh, later) {
			t.Errorf("%s:\n%+v\n%+v", name, fresh, later)
		}
	}
}

func TestRecycling(t *testing.T) {
	asks := func(text string) func(*observation) {
		return func(o *observation) { o.pool.Annotations = map[string]string{v1alpha1.AnnotationRecycle: text} }
	}
	completed := func(o *observation) { o.groups[0].Status.Router.RecycleCompleted = "leak: 1" }
	for _, c := range []struct {
		name  string
		edits []func(*observation)
		want  string
	}{
		{"nothing asked", nil, ""},
		{"under way", []func(*observation){asks("leak: 1")}, `True/Recycling: request "leak: 1"`},
		{"complete", []func(*observation){asks("leak: 1"), completed}, ""},
		{"another one", []func(*observation){asks("leak: 2"), completed}, `True/Recycling: request "leak: 2"`},
		{"no router to tell", []func(*observation){asks("leak: 1"), routerDown}, ""},
		{"cannot be read", []func(*observation){asks("leak: x"), completed}, `False/RecycleRequestInvalid: pool demo: annotation snakepit.dev/recycle "leak: x" has no list`},
		{"deleting", []func(*observation){asks("leak: x"), deleting}, ""},
	} {
		got, _ := computeStatus(look(t, c.edits...), now)
		have := ""
		if cond := meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionRecycling); cond != nil {
			have = string(cond.Status) + "/" + cond.Reason + ": " + cond.Message
		}
		if !strings.HasPrefix(have, c.want) || (have == "") != (c.want == "") {
			t.Errorf("%s: %q, want %q", c.name, have, c.want)
		}
	}
}
