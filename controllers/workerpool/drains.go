package workerpool

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/resources"
)

// drains are the groups that end, one text for each: those that are waited for, and those that were given up with their node.
type drains struct {
	ordinary []string
	lost     []string
	held     bool
}

func (d *drains) add(obs *observation, g *v1alpha1.WorkerGroup, now time.Time) {
	request := g.Spec.DrainRequest
	switch {
	case lost(g):
		d.lost = append(d.lost, lostWithNode(obs, g))
	case g.DeletionTimestamp != nil:
		d.ordinary = append(d.ordinary, deleted(g))
	case request.Held() && !now.Before(heldFrom(g)):
		d.held = true
		d.ordinary = append(d.ordinary, fmt.Sprintf("group %s is held since its drain's deadline %s (%s): %s. To end it: kubectl patch wpool %s --type merge -p '{\"spec\":{\"drain\":{\"onDeadline\":\"Terminate\"}}}'",
			g.Name, stamp(metav1.NewTime(heldFrom(g))), because(obs, g.UID, request), left(g), obs.pool.Name))
	default:
		d.ordinary = append(d.ordinary, fmt.Sprintf("group %s drains since %s: %s", g.Name, stamp(request.StartedAt), drainEnd(obs, g.UID, request)))
	}
}

func (d *drains) text() string {
	return strings.Join(append(append([]string{}, d.ordinary...), d.lost...), "; ")
}

// reason of the condition Draining.
func (d *drains) reason() string {
	switch {
	case d.held:
		return v1alpha1.ReasonDrainHeld
	case len(d.ordinary) == 0:
		return v1alpha1.ReasonNodeLost
	}
	return v1alpha1.ReasonDraining
}

// inactive says why no group takes new sessions; other when no drain is the reason.
func (d *drains) inactive(obs *observation, other verdict) verdict {
	reason, asked := resources.DrainAsked(obs.pool)
	switch {
	case len(d.ordinary) > 0:
		return verdict{false, v1alpha1.ReasonDraining, strings.Join(d.ordinary, "; ")}
	case asked && len(obs.orphans) == 0:
		message := "the pool is drained at request"
		if reason != "" {
			message += fmt.Sprintf(" (%q)", reason)
		}
		return verdict{false, v1alpha1.ReasonDrained, fmt.Sprintf("%s. For a fresh group: kubectl annotate wpool %s %s-", message, obs.pool.Name, v1alpha1.AnnotationDrain)}
	}
	return other
}

// wait notes what the passing of time makes of a group that ends.
func (f *facts) wait(obs *observation, g *v1alpha1.WorkerGroup, now time.Time) {
	// A group that is lost while its pool is kept is nobody's duty: its successor serves.
	if g.DeletionTimestamp == nil || (lost(g) && obs.pool.DeletionTimestamp == nil) {
		return
	}
	if message := blocked(obs.pool, g, now); message != "" {
		f.stalled = verdict{true, v1alpha1.ReasonCleanupBlocked, message}
	} else {
		f.again = overdue(g)
	}
}

func lost(g *v1alpha1.WorkerGroup) bool {
	return g.Spec.DrainRequest != nil && g.Spec.DrainRequest.Cause == v1alpha1.DrainCauseNodeLost
}

// heldFrom is when a drain that is held would have ended.
func heldFrom(g *v1alpha1.WorkerGroup) time.Time {
	return g.Spec.DrainRequest.StartedAt.Add(drainTimeout(g))
}

// drainEnd says when and why the drain of the group with this UID ends.
func drainEnd(obs *observation, group types.UID, request *v1alpha1.DrainRequest) string {
	if request.Held() {
		return fmt.Sprintf("it ends when nothing is left (%s; drain.onDeadline is Hold)", because(obs, group, request))
	}
	return fmt.Sprintf("what is left ends at %s (%s)", stamp(request.Deadline), because(obs, group, request))
}

func because(obs *observation, group types.UID, request *v1alpha1.DrainRequest) string {
	switch reason, _ := resources.DrainAsked(obs.pool); {
	case request.Cause == v1alpha1.DrainCauseNodeDrained && obs.places[group].node.Name != "":
		return request.Cause + ": node " + obs.places[group].node.Name
	case request.Cause == v1alpha1.DrainCauseRequested && reason != "":
		return request.Cause + ": " + reason
	}
	return request.Cause
}

// left says what a group that drains still holds, by its router's last word: rounded, and at most a minute old.
func left(g *v1alpha1.WorkerGroup) string {
	if !sameRouter(g) {
		return "its router has not reported what is left"
	}
	return fmt.Sprintf("about %d sessions and %d busy workers are left", g.Status.Router.Sessions, g.Status.Router.BusyWorkers)
}

// leftOf is left for the group with this UID.
func leftOf(obs *observation, uid types.UID) string {
	for i := range obs.groups {
		if obs.groups[i].UID == uid {
			return left(&obs.groups[i]) + " and end now"
		}
	}
	return "what is left ends now"
}

// deleted says what a deleted group waits for.
func deleted(g *v1alpha1.WorkerGroup) string {
	if c := meta.FindStatusCondition(g.Status.Conditions, v1alpha1.ConditionReady); c != nil && c.Reason == v1alpha1.ReasonTerminating {
		return fmt.Sprintf("group %s: %s", g.Name, c.Message)
	}
	return fmt.Sprintf("group %s, deleted at %s", g.Name, stamp(*g.DeletionTimestamp))
}

// lostWithNode says where a lost group may still run, and what proves that it does not.
func lostWithNode(obs *observation, g *v1alpha1.WorkerGroup) string {
	node := obs.places[g.UID].node.Name
	if node == "" || g.DeletionTimestamp == nil {
		return fmt.Sprintf("group %s was lost with its node at %s", g.Name, stamp(g.Spec.DrainRequest.StartedAt))
	}
	return fmt.Sprintf("group %s was lost with node %s and may still run there (%s). It goes when the node is back, or, once the machine is surely off: "+
		"kubectl delete node %s, or kubectl taint node %s node.kubernetes.io/out-of-service=nodeshutdown:NoExecute", g.Name, node, deleted(g), node, node)
}

// nodeDown says that the pod that serves is on a node that does not report, and what follows.
func nodeDown(pool *v1alpha1.WorkerPool, at place) string {
	since := metav1.NewTime(at.node.DownSince)
	next := fmt.Sprintf("a successor is made at %s, spec.failover.after", stamp(metav1.NewTime(since.Add(failoverAfter(pool)))))
	if at.node.Alone {
		next = "no other node is Ready and takes pods, so it is waited for"
	}
	return fmt.Sprintf("node %s of pod %s is not Ready since %s (kubectl describe node %s); %s", at.node.Name, at.pod, stamp(since), at.node.Name, next)
}

// blocked says that a group's pod is left although its own grace has passed.
func blocked(pool *v1alpha1.WorkerPool, g *v1alpha1.WorkerGroup, now time.Time) string {
	if g.DeletionTimestamp == nil || now.Before(overdue(g)) {
		return ""
	}
	return fmt.Sprintf("%s. Its node may be lost (kubectl get nodes). %s", deleted(g), howToForce(pool))
}

// overdue is when a deleted group's pod should be gone.
func overdue(g *v1alpha1.WorkerGroup) time.Time {
	return g.DeletionTimestamp.Add(drainTimeout(g) + 2*v1alpha1.CleanupTailSeconds*time.Second)
}
