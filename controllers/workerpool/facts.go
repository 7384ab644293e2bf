package workerpool

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/conditions"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/plan"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/resources"
)

// verdict is a condition without its type.
type verdict struct {
	ok      bool
	reason  string
	message string
}

// facts are what the groups say, before it becomes conditions.
type facts struct {
	// active is the group of the current revision that is not ending; nil while there is none.
	active *v1alpha1.WorkerGroup
	// ready workers of the active group, by the word of a router that counts.
	ready int32
	// reached: nothing is left to do for this generation, workers' starts apart.
	reached  bool
	router   verdict
	adapter  *metav1.Condition
	stalled  verdict
	draining drains
	// ending is what a deletion waits for; again is when the passing of time alone says something new; zero for never.
	ending string
	again  time.Time
}

// gather reads the groups: counts into out, the rest into facts.
func gather(obs *observation, out *v1alpha1.WorkerPoolStatus, now time.Time) facts {
	f := facts{router: verdict{false, v1alpha1.ReasonRouterStarting, fmt.Sprintf("no group of pool %s serves yet", obs.pool.Name)}}
	for i := range obs.groups {
		g := &obs.groups[i]
		if trusted(g) {
			out.Workers += int32(len(g.Status.Router.Workers))
			out.BusyWorkers += g.Status.Router.BusyWorkers
			out.Sessions += g.Status.Router.Sessions
		}
		if g.DeletionTimestamp != nil || g.Spec.DrainRequest != nil {
			f.draining.add(obs, g, now)
			f.wait(obs, g, now)
		} else if g.Spec.Revision == obs.revision && f.active == nil {
			f.active = g
		}
	}
	if f.active == nil {
		f.router = f.draining.inactive(obs, f.router)
	}
	if names := taken(obs); names != "" {
		f.stalled = verdict{true, v1alpha1.ReasonNameTaken, names}
	}
	if obs.refused != "" {
		f.stalled = verdict{true, v1alpha1.ReasonChildRejected, obs.refused}
	}
	if f.active != nil {
		f.describe(obs, out)
	}
	f.ending = f.draining.text()
	if f.ending == "" && len(obs.orphans) > 0 {
		f.ending = fmt.Sprintf("pod %s, whose group is gone", obs.orphans[0].Name)
	}
	return f
}

// describe adds what the active group says.
func (f *facts) describe(obs *observation, out *v1alpha1.WorkerPoolStatus) {
	g := f.active
	out.Revision = g.Spec.Revision
	if trusted(g) {
		f.ready = g.Status.Router.ReadyWorkers
		out.ReadyWorkers = f.ready
		f.reached = len(obs.groups) == 1+len(f.draining.lost) && resources.GroupMatches(wanted(obs, g), g) && g.Status.Router.ObservedGeneration >= g.Generation &&
			upToDate(g, v1alpha1.ConditionRouterReady) != nil
	}
	if c := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionRouterReady); c != nil {
		f.router = verdict{c.Status == metav1.ConditionTrue, c.Reason, c.Message}
	}
	if f.router.ok && !ofPresentPod(g) {
		f.router = verdict{false, v1alpha1.ReasonRouterStarting, fmt.Sprintf("group %s has another pod than the one that was ready", g.Name)}
	}
	if at := obs.places[g.UID]; !f.router.ok && !at.node.DownSince.IsZero() {
		f.router = verdict{false, v1alpha1.ReasonRouterUnreachable, nodeDown(obs.pool, at)}
	}
	// One of before is not repeated about what the user wants now: it has Flux and Helm give up.
	if c := upToDate(g, v1alpha1.ConditionStalled); c != nil && c.Status == metav1.ConditionTrue && !f.stalled.ok {
		f.stalled = verdict{true, c.Reason, c.Message}
	}
	// The adapter's failure is the router's word even while its pod is not Ready: that is what keeps it from being Ready.
	c := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionAdapterLoaded)
	if c == nil || !sameRouter(g) {
		return
	}
	f.adapter = c.DeepCopy()
	if c.Status == metav1.ConditionFalse {
		f.adapter.Message = withLogs(g, c.Message)
		// What the router says beside a failure is what to do about it; for this one the log has no more.
		if c.Reason == v1alpha1.ReasonThreadSafetyNotDeclared {
			f.adapter.Message = c.Message
		}
		if !f.stalled.ok {
			f.stalled = verdict{true, c.Reason, f.adapter.Message}
		}
	}
}

// available says whether as many workers as wanted can take new sessions.
func (f *facts) available(pool *v1alpha1.WorkerPool) verdict {
	want := pool.Spec.Workers
	missing := want - f.ready
	switch {
	case f.active == nil || !f.router.ok:
		// A worker that never becomes ready is what keeps the router from being so.
		if why := f.failing(want); f.router.reason == v1alpha1.ReasonRouterStarting && why != "" {
			return verdict{false, v1alpha1.ReasonWorkersFailing, why}
		}
		return verdict{false, f.router.reason, f.router.message}
	case !trusted(f.active):
		return verdict{false, v1alpha1.ReasonRouterStarting, fmt.Sprintf("the router of pod %s has not reported yet", f.active.Status.PodName)}
	case want == 0:
		return verdict{true, v1alpha1.ReasonScaledToZero, fmt.Sprintf("no worker of pool %s is wanted; set spec.workers to start some", pool.Name)}
	case missing <= 0:
		return verdict{true, v1alpha1.ReasonWorkersReady, fmt.Sprintf("%d of %d workers ready", f.ready, want)}
	}
	if why := f.failing(want); why != "" {
		return verdict{false, v1alpha1.ReasonWorkersFailing, why}
	}
	return verdict{false, v1alpha1.ReasonWorkersStarting, fmt.Sprintf("%d of %d workers of pod %s not ready yet", missing, want, f.active.Status.PodName)}
}

// failing names a worker that ended before it was ready, why, and the next step; empty when there is none. It counts while the pod is not Ready.
func (f *facts) failing(want int32) string {
	if f.active == nil || !sameRouter(f.active) {
		return ""
	}
	pod := f.active.Status.PodName
	for _, w := range f.active.Status.Router.Workers {
		if w.State != v1alpha1.WorkerFailed || w.LastError == "" {
			continue
		}
		why := w.LastError
		if w.LastExit != nil && w.LastExit.Reason.NextStep() != "" {
			why += "; " + w.LastExit.Reason.NextStep()
		}
		return fmt.Sprintf("%d of %d workers not ready: worker %s/%d: %s (kubectl logs %s -c %s)", want-f.ready, want, pod, w.Slot, why, pod, v1alpha1.WorkerContainer)
	}
	return ""
}

// recycling says what became of the annotation that asks for fresh processes; no reason when there is nothing to say.
func recycling(obs *observation, f facts) verdict {
	request, err := resources.RecycleRequest(obs.pool)
	switch {
	case obs.pool.DeletionTimestamp != nil:
		return verdict{}
	case err != nil:
		return verdict{false, v1alpha1.ReasonRecycleRequestInvalid, fmt.Sprintf("pool %s: %v", obs.pool.Name, err)}
	case request == nil || f.active == nil || !trusted(f.active) || f.active.Status.Router.RecycleCompleted == request.ID:
		return verdict{}
	}
	return verdict{true, v1alpha1.ReasonRecycling, fmt.Sprintf("request %q: workers of group %s are replaced one at a time", request.ID, f.active.Name)}
}

// readiness is Ready: router up and enough workers available. A pool that was Ready for this generation stays so for a few seconds.
func (f *facts) readiness(pool *v1alpha1.WorkerPool, set *conditions.Set, available verdict, now time.Time) (verdict, time.Time) {
	switch {
	case pool.DeletionTimestamp != nil:
		if pool.Annotations[v1alpha1.AnnotationForceCleanup] == string(pool.UID) {
			return verdict{false, v1alpha1.ReasonCleanupForced, fmt.Sprintf("cleanup of pool %s is forced; processes may still run where the Events say. Left: %s", pool.Name, f.ending)}, time.Time{}
		}
		return verdict{false, v1alpha1.ReasonTerminating, terminating(pool, f.ending)}, time.Time{}
	case f.router.ok && available.ok && f.stalled.reason != v1alpha1.ReasonCrashLooping:
		return available, time.Time{}
	}
	bad := available
	if f.stalled.ok {
		bad = f.stalled
	}
	was := set.Old(v1alpha1.ConditionReady)
	if was == nil || was.Status != metav1.ConditionTrue || was.ObservedGeneration != pool.Generation {
		return verdict{false, bad.reason, bad.message}, time.Time{}
	}
	since := now
	if c := set.Old(v1alpha1.ConditionWorkersAvailable); c != nil && c.Status == metav1.ConditionFalse {
		since = c.LastTransitionTime.Time
	}
	if until := since.Add(unreadyAfter); now.Before(until) {
		return verdict{true, was.Reason, was.Message}, until
	}
	return verdict{false, bad.reason, bad.message}, time.Time{}
}

// terminating says what is left, since when, and how to force: a stable text, because it is written on change only.
func terminating(pool *v1alpha1.WorkerPool, left string) string {
	if left == "" {
		left = "the check that nothing is left"
	}
	return fmt.Sprintf("pool %s was deleted at %s, waiting for: %s. %s", pool.Name, stamp(*pool.DeletionTimestamp), left, howToForce(pool))
}

func howToForce(pool *v1alpha1.WorkerPool) string {
	return fmt.Sprintf("To force: kubectl annotate wpool %s %s=%s", pool.Name, v1alpha1.AnnotationForceCleanup, pool.UID)
}

func taken(obs *observation) string {
	var names []string
	for _, c := range obs.children {
		if c.State == plan.Taken {
			names = append(names, fmt.Sprintf("%s %s exists and is not this pool's", c.Kind, c.Name))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return strings.Join(names, "; ") + ". Delete or rename it, or give the pool another name"
}

// withLogs names the worker container and where to read the rest, unless the router said so already.
func withLogs(g *v1alpha1.WorkerGroup, message string) string {
	if strings.Contains(message, "kubectl logs") {
		return message
	}
	if g.Status.PodName == "" {
		return fmt.Sprintf("worker of group %s: %s", g.Name, message)
	}
	return fmt.Sprintf("worker %s: %s (kubectl logs %s -c %s)", g.Status.PodName, message, g.Status.PodName, v1alpha1.WorkerContainer)
}

// wanted is what a group of the pool should look like now, under its own name and revision.
func wanted(obs *observation, g *v1alpha1.WorkerGroup) *v1alpha1.WorkerGroup {
	revision := resources.RevisionOf(g)
	ordinal, _ := resources.GroupOrdinal(obs.pool.Name, revision, g.Name)
	return resources.MakeGroup(obs.pool, revision, ordinal)
}

func stamp(t metav1.Time) string { return t.UTC().Format(time.RFC3339) }
