package workergroup

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/conditions"
)

// ownStatus is the operator's part of a group's status.
type ownStatus struct {
	ObservedGeneration int64              `json:"observedGeneration"`
	PodName            string             `json:"podName,omitempty"`
	Conditions         []metav1.Condition `json:"conditions"`
}

// routersConditions are written by the router and never by the operator.
var routersConditions = map[string]bool{v1alpha1.ConditionWorkersReady: true, v1alpha1.ConditionAdapterLoaded: true}

func (r *Reconciler) writeStatus(ctx context.Context, obs *observation, refused *refusal, now time.Time) error {
	next := computeStatus(obs, refused, now)
	was := ownStatus{ObservedGeneration: obs.group.Status.ObservedGeneration, PodName: obs.group.Status.PodName}
	for _, c := range obs.group.Status.Conditions {
		if !routersConditions[c.Type] {
			was.Conditions = append(was.Conditions, c)
		}
	}
	if sameStatus(next, was) {
		return nil
	}
	if err := r.Writer.ApplyStatus(ctx, obs.group.UID, obs.group, &next, v1alpha1.FieldManagerOperator); err != nil {
		return err
	}
	started := !meta.IsStatusConditionTrue(was.Conditions, v1alpha1.ConditionRouterReady) && meta.IsStatusConditionTrue(next.Conditions, v1alpha1.ConditionRouterReady)
	if pod := current(obs); started && pod != nil {
		r.Metrics.PodReady(obs.group.UID, pod.UID, now.Sub(pod.CreationTimestamp.Time))
	}
	return nil
}

func sameStatus(a, b ownStatus) bool {
	byType := map[string]metav1.Condition{}
	for _, c := range b.Conditions {
		byType[c.Type] = c
	}
	if len(a.Conditions) != len(b.Conditions) || a.ObservedGeneration != b.ObservedGeneration || a.PodName != b.PodName {
		return false
	}
	for _, c := range a.Conditions {
		if !equality.Semantic.DeepEqual(c, byType[c.Type]) {
			return false
		}
	}
	return true
}

// computeStatus says what the observation means. Of the old status only transition times are used.
func computeStatus(obs *observation, refused *refusal, now time.Time) ownStatus {
	group := obs.group
	set := conditions.New(group.Status.Conditions, group.Generation, now)
	pod := current(obs)
	routerReady, reason, message := routerState(group, pod, refused)
	put := func(kind string, ok bool, reason, message string) {
		set.Put(kind, conditions.Status(ok), reason, message)
	}
	ready, readyReason, readyMessage := routerReady, reason, message
	if trouble := workersTrouble(group); trouble != nil && (routerReady || reason == v1alpha1.ReasonRouterStarting || reason == v1alpha1.ReasonRouterUnreachable) {
		ready, readyReason, readyMessage = false, trouble.Reason, trouble.Message
	} else if routerReady {
		ready, readyReason, readyMessage = workersState(group)
	}
	if group.DeletionTimestamp != nil {
		ready, readyReason, readyMessage = false, v1alpha1.ReasonTerminating, terminating(obs)
	}
	put(v1alpha1.ConditionReady, ready, readyReason, readyMessage)
	put(v1alpha1.ConditionRouterReady, routerReady, reason, message)
	if d := group.Spec.DrainRequest; d != nil {
		until := "what is left ends at " + stamp(d.Deadline)
		if d.Held() {
			until = "it ends when nothing is left"
		}
		put(v1alpha1.ConditionDraining, true, v1alpha1.ReasonDraining, fmt.Sprintf("no new sessions since %s; %s (%s)", stamp(d.StartedAt), until, d.Cause))
	}
	if refused != nil {
		put(v1alpha1.ConditionStalled, true, refused.reason, refused.message)
	} else if group.DeletionTimestamp == nil && (readyReason == v1alpha1.ReasonCrashLooping || stuckReasons[readyReason]) {
		put(v1alpha1.ConditionStalled, true, readyReason, readyMessage)
	}
	out := ownStatus{ObservedGeneration: group.Generation, Conditions: set.List()}
	if pod != nil {
		out.PodName = pod.Name
	}
	return out
}

// current is the pod of spec.podUID, or the only one while none is named.
func current(obs *observation) *corev1.Pod {
	for i := range obs.pods {
		if obs.pods[i].UID == obs.group.Spec.PodUID {
			return &obs.pods[i]
		}
	}
	for i := range obs.pods {
		if obs.pods[i].DeletionTimestamp == nil {
			return &obs.pods[i]
		}
	}
	return nil
}

// routerState says whether the group's pod is the named one and Ready, and if not, why, with the next step.
func routerState(group *v1alpha1.WorkerGroup, pod *corev1.Pod, refused *refusal) (bool, string, string) {
	switch {
	case refused != nil:
		return false, refused.reason, refused.message
	case pod == nil:
		return false, v1alpha1.ReasonPodPending, fmt.Sprintf("group %s has no pod yet", group.Name)
	case podReady(pod) && pod.UID == group.Spec.PodUID:
		return true, v1alpha1.ReasonRouterReady, fmt.Sprintf("the router of pod %s is ready", pod.Name)
	case podReady(pod):
		return false, v1alpha1.ReasonRouterStarting, fmt.Sprintf("pod %s is ready and takes over", pod.Name)
	case pod.DeletionTimestamp != nil:
		return false, v1alpha1.ReasonRouterUnreachable, fmt.Sprintf("pod %s is ending", pod.Name)
	}
	was := group.Status.Router
	served := was != nil && was.PodUID == pod.UID && was.ReadyWorkers > 0
	if reason, message := podProblem(pod, served); reason != "" {
		return false, reason, message
	}
	if !routerStarted(pod) {
		return false, v1alpha1.ReasonPodPending, fmt.Sprintf("pod %s is starting; if it stays so, a volume cannot be mounted (kubectl describe pod %s)", pod.Name, pod.Name)
	}
	if served {
		return false, v1alpha1.ReasonRouterUnreachable, fmt.Sprintf("the router of pod %s does not answer (kubectl logs %s -c router)", pod.Name, pod.Name)
	}
	return false, v1alpha1.ReasonRouterStarting, fmt.Sprintf("the router of pod %s waits for its first worker (kubectl logs %s -c %s)", pod.Name, pod.Name, v1alpha1.WorkerContainer)
}

// workersState says what the router says; it is asked only while its word counts.
func workersState(group *v1alpha1.WorkerGroup) (bool, string, string) {
	router := group.Status.Router
	wanted := group.Spec.Workers
	switch {
	case router == nil || router.PodUID != group.Spec.PodUID:
		return false, v1alpha1.ReasonRouterStarting, fmt.Sprintf("the router of group %s has not reported yet", group.Name)
	case router.ReadyWorkers >= wanted && wanted == 0:
		return true, v1alpha1.ReasonScaledToZero, fmt.Sprintf("no worker of group %s is wanted", group.Name)
	case router.ReadyWorkers >= wanted:
		return true, v1alpha1.ReasonWorkersReady, fmt.Sprintf("%d of %d workers ready", router.ReadyWorkers, wanted)
	default:
		return false, v1alpha1.ReasonWorkersStarting, fmt.Sprintf("%d of %d workers of group %s not ready yet", wanted-router.ReadyWorkers, wanted, group.Name)
	}
}

// workersTrouble is the router's word that workers end before they are ready, or die again and again; nil when they do not. It counts while
// the pod is not Ready, too: a worker that never becomes ready is what keeps it from being Ready. What was said before the settings changed may
// be over with them.
func workersTrouble(group *v1alpha1.WorkerGroup) *metav1.Condition {
	if r := group.Status.Router; r == nil || r.PodUID == "" || r.PodUID != group.Spec.PodUID || r.ObservedGeneration < group.Generation {
		return nil
	}
	c := meta.FindStatusCondition(group.Status.Conditions, v1alpha1.ConditionWorkersReady)
	if c == nil || c.Status != metav1.ConditionFalse || (c.Reason != v1alpha1.ReasonCrashLooping && c.Reason != v1alpha1.ReasonWorkersFailing) {
		return nil
	}
	return c
}

func terminating(obs *observation) string {
	if len(obs.pods) == 0 {
		return fmt.Sprintf("checking that no pod of group %s is left", obs.group.Name)
	}
	pod := &obs.pods[0]
	node := pod.Spec.NodeName
	if node == "" {
		node = "no node"
	}
	return fmt.Sprintf("pod %s on %s is left, since %s; cleanup is forced at %s", pod.Name, node,
		stamp(*obs.group.DeletionTimestamp), stamp(metav1.NewTime(forceAt(obs.group))))
}

func stamp(t metav1.Time) string { return t.UTC().Format(time.RFC3339) }
