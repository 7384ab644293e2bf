package workerpool

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/conditions"
	"github.com/snakepit-k8s/snakepit/controllers/seeded"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/plan"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/resources"
)

// unreadyAfter is how long a pool that was Ready must lack workers before Ready is False: a worker's replacement takes milliseconds.
// Transition times are whole seconds, so one more is added to the five.
const unreadyAfter = 6 * time.Second

// writeStatus writes what the observation means, if it says something new. It returns when to look again; zero for never.
func (r *Reconciler) writeStatus(ctx context.Context, obs *observation, now time.Time) (time.Time, error) {
	next, again := computeStatus(obs, now)
	if equality.Semantic.DeepEqual(next, obs.pool.Status) {
		return again, nil
	}
	if err := r.Writer.ApplyStatus(ctx, obs.pool.UID, obs.pool, &next, v1alpha1.FieldManagerOperator); err != nil {
		return again, err
	}
	r.announce(obs, next.Conditions)
	if since, reached := arrived(obs.pool.Status.Conditions, next.Conditions); reached {
		r.Metrics.PoolReady(now.Sub(since))
	}
	return again, nil
}

// arrived says whether a pool that was being made or changed is Ready now and has reached what is wanted, and since when it was on the way.
func arrived(was, now []metav1.Condition) (since time.Time, reached bool) {
	way := meta.FindStatusCondition(was, v1alpha1.ConditionReconciling)
	if way == nil || meta.FindStatusCondition(now, v1alpha1.ConditionReconciling) != nil || !meta.IsStatusConditionTrue(now, v1alpha1.ConditionReady) {
		return time.Time{}, false
	}
	return way.LastTransitionTime.Time, true
}

// announce tells of conditions that just became true and that somebody must act on, and of Ready as it turns. What it compares with is the
// status that this write replaced, so each change is told once.
func (r *Reconciler) announce(obs *observation, next []metav1.Condition) {
	pool, related := obs.pool, groupOf(obs)
	for _, kind := range []string{v1alpha1.ConditionStalled, v1alpha1.ConditionRecycling} {
		now := meta.FindStatusCondition(next, kind)
		was := meta.FindStatusCondition(pool.Status.Conditions, kind)
		if now == nil || (was != nil && was.Reason == now.Reason) || now.Reason == v1alpha1.ReasonRecycling {
			continue
		}
		r.event(pool, related, corev1.EventTypeWarning, now.Reason, "UpdateStatus", "%s", now.Message)
	}
	now := meta.FindStatusCondition(next, v1alpha1.ConditionReady)
	was := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case now.Status == metav1.ConditionTrue && (was == nil || was.Status != metav1.ConditionTrue):
		r.event(pool, related, corev1.EventTypeNormal, v1alpha1.EventPoolReady, "UpdateStatus", "pool %s is ready: %s", pool.Name, now.Message)
	case now.Status == metav1.ConditionFalse && was != nil && was.Status == metav1.ConditionTrue && was.ObservedGeneration == pool.Generation && pool.DeletionTimestamp == nil:
		r.event(pool, related, corev1.EventTypeWarning, v1alpha1.EventPoolNotReady, "UpdateStatus", "pool %s is not ready: %s", pool.Name, now.Message)
	}
}

// groupOf is what an Event about the pool relates to: the group of the current revision, or any; nil, as an interface, when there is none.
func groupOf(obs *observation) runtime.Object {
	var found runtime.Object
	for i := range obs.groups {
		if g := &obs.groups[i]; found == nil || g.Spec.Revision == obs.revision {
			found = reference(obs, plan.Group{Name: g.Name, UID: g.UID})
		}
	}
	return found
}

// computeStatus says what the observation means. Of the old status only the times and generations of its conditions are used.
func computeStatus(obs *observation, now time.Time) (v1alpha1.WorkerPoolStatus, time.Time) {
	pool := obs.pool
	out := v1alpha1.WorkerPoolStatus{
		ObservedGeneration: pool.Generation,
		Endpoint:           resources.Endpoint(pool),
		Selector:           resources.Selector(pool),
	}
	f := gather(obs, &out, now)
	out.ReadySummary = fmt.Sprintf("%d/%d", out.ReadyWorkers, pool.Spec.Workers)
	set := conditions.New(pool.Status.Conditions, pool.Generation, now)
	available := f.available(pool)
	ready, again := f.readiness(pool, set, available, now)
	if was := set.Old(v1alpha1.ConditionReady); seeded.StatusFromOld && was != nil && was.Status == metav1.ConditionTrue {
		ready, f.reached = verdict{true, was.Reason, was.Message}, true
	}
	set.Put(v1alpha1.ConditionReady, conditions.Status(ready.ok), ready.reason, ready.message)
	set.Put(v1alpha1.ConditionWorkersAvailable, conditions.Status(available.ok), available.reason, available.message)
	set.Put(v1alpha1.ConditionRouterReady, conditions.Status(f.router.ok), f.router.reason, f.router.message)
	if a := f.adapter; a != nil {
		set.Put(v1alpha1.ConditionAdapterLoaded, a.Status, a.Reason, a.Message)
	} else {
		set.Put(v1alpha1.ConditionAdapterLoaded, metav1.ConditionUnknown, v1alpha1.ReasonAdapterLoading, fmt.Sprintf("the router of pool %s has not reported yet", pool.Name))
	}
	if text := f.draining.text(); text != "" {
		set.Put(v1alpha1.ConditionDraining, metav1.ConditionTrue, f.draining.reason(), text)
	}
	if c := recycling(obs, f); c.reason != "" {
		set.Put(v1alpha1.ConditionRecycling, conditions.Status(c.ok), c.reason, c.message)
	}
	switch {
	case f.stalled.ok:
		set.Put(v1alpha1.ConditionStalled, metav1.ConditionTrue, f.stalled.reason, f.stalled.message)
	case pool.DeletionTimestamp != nil || f.router.reason == v1alpha1.ReasonDrained:
	case !f.reached || (!ready.ok && unfinished(set, pool.Generation)):
		reason, message := progress(obs, f, available)
		set.Put(v1alpha1.ConditionReconciling, metav1.ConditionTrue, reason, message)
	}
	out.Conditions = set.List()
	if again.IsZero() {
		again = f.again
	}
	return out, again
}

// unfinished says whether this generation was never Ready.
func unfinished(set *conditions.Set, generation int64) bool {
	ready := set.Old(v1alpha1.ConditionReady)
	return ready == nil || ready.ObservedGeneration < generation || ready.Status == metav1.ConditionUnknown || set.Old(v1alpha1.ConditionReconciling) != nil
}

func progress(obs *observation, f facts, available verdict) (reason, message string) {
	switch {
	case len(f.draining.ordinary) > 0:
		return v1alpha1.ReasonReplacing, strings.Join(f.draining.ordinary, "; ")
	case f.active == nil:
		return v1alpha1.ReasonProgressing, fmt.Sprintf("the group of revision %s of pool %s is being made", obs.revision, obs.pool.Name)
	case !available.ok:
		return v1alpha1.ReasonProgressing, available.message
	}
	return v1alpha1.ReasonProgressing, fmt.Sprintf("the router of group %s follows the change", f.active.Name)
}
