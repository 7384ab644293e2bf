package workergroup

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/workergroup/plan"
	"github.com/snakepit-k8s/snakepit/controllers/workergroup/resources"
	"github.com/snakepit-k8s/snakepit/controllers/writer"
)

// servedAfter is how long a pod must have been there before its end counts as the end of one that worked.
const servedAfter = time.Minute

// defaultCleanup is cleanup.timeout when it is unset; the same as in the CRD.
const defaultCleanup = 5 * time.Minute

// observation is one look at a group: what the cache holds of it.
type observation struct {
	group  *v1alpha1.WorkerGroup
	pods   []corev1.Pod
	forced bool
}

// observe reads the cache. Only a pod that the group names and that the cache lacks is asked for at the API server itself: the cache holds
// what carries our label, and somebody may have taken that.
func observe(ctx context.Context, cache, live client.Reader, group *v1alpha1.WorkerGroup) (*observation, error) {
	obs := &observation{group: group}
	var list corev1.PodList
	if err := cache.List(ctx, &list, client.InNamespace(group.Namespace), writer.Naming(group.UID)); err != nil {
		return nil, err
	}
	for _, pod := range list.Items {
		if writer.OwnedBy(&pod, group.UID) {
			obs.pods = append(obs.pods, pod)
		}
	}
	if err := obs.findNamed(ctx, live); err != nil {
		return nil, err
	}
	var pool v1alpha1.WorkerPool
	if owner := metav1.GetControllerOf(group); owner != nil {
		err := cache.Get(ctx, types.NamespacedName{Namespace: group.Namespace, Name: owner.Name}, &pool)
		if client.IgnoreNotFound(err) != nil {
			return nil, err
		}
		obs.forced = err == nil && pool.UID == owner.UID && pool.Annotations[v1alpha1.AnnotationForceCleanup] == string(pool.UID)
	}
	return obs, nil
}

// findNamed adds the pod of spec.podUID if the cache has it not, and it is there. One that another controller took is not the group's any more.
func (o *observation) findNamed(ctx context.Context, live client.Reader) error {
	uid, name := o.group.Spec.PodUID, o.group.Status.PodName
	if next := o.group.Spec.NextPod; next > 0 {
		name = resources.PodName(o.group, int(next)-1)
	}
	if uid == "" || slices.ContainsFunc(o.pods, func(p corev1.Pod) bool { return p.UID == uid }) {
		return nil
	}
	if name == "" {
		name = resources.PodName(o.group, 0)
	}
	var pod corev1.Pod
	if err := live.Get(ctx, types.NamespacedName{Namespace: o.group.Namespace, Name: name}, &pod); err != nil {
		return client.IgnoreNotFound(err)
	}
	if by := metav1.GetControllerOf(&pod); pod.UID == uid && (by == nil || by.UID == o.group.UID) {
		o.pods = append(o.pods, pod)
	}
	return nil
}

// input is the observation in the planner's words.
func (o *observation) input(now time.Time) plan.Input {
	in := plan.Input{Now: now, Group: plan.Group{
		Deleting: o.group.DeletionTimestamp != nil,
		Draining: o.group.Spec.DrainRequest != nil,
		Lost:     o.group.Spec.DrainRequest != nil && o.group.Spec.DrainRequest.Cause == v1alpha1.DrainCauseNodeLost,
		PodUID:   o.group.Spec.PodUID,
		NextPod:  int(o.group.Spec.NextPod),
		Forced:   o.forced,
		ForceAt:  forceAt(o.group),
	}}
	for _, f := range o.group.Finalizers {
		in.Group.Finalizer = in.Group.Finalizer || f == v1alpha1.Finalizer
	}
	for i := range o.pods {
		in.Pods = append(in.Pods, planned(o.group, &o.pods[i]))
	}
	return in
}

// forceAt is when a deletion is forced: cleanup.timeout after the pod's own grace has passed.
func forceAt(group *v1alpha1.WorkerGroup) time.Time {
	if group.DeletionTimestamp == nil {
		return time.Time{}
	}
	timeout := defaultCleanup
	if t := group.Spec.Cleanup.Timeout; t != nil {
		timeout = t.Duration
	}
	return group.DeletionTimestamp.Add(time.Duration(resources.GraceSeconds(&group.Spec.PodSettings))*time.Second + timeout)
}

func planned(group *v1alpha1.WorkerGroup, pod *corev1.Pod) plan.Pod {
	ordinal, ok := resources.PodOrdinal(group, pod.Name)
	if !ok {
		ordinal = -1
	}
	p := plan.Pod{
		Name:     pod.Name,
		UID:      pod.UID,
		Ordinal:  ordinal,
		Node:     pod.Spec.NodeName,
		Ready:    podReady(pod),
		Serving:  pod.Labels[v1alpha1.LabelServing] == "true",
		Stripped: resources.Stripped(group, pod),
		Ended:    pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded,
	}
	if pod.DeletionTimestamp != nil {
		p.Terminating, p.GraceOver = true, pod.DeletionTimestamp.Time
		p.Killed = pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0
	}
	if p.Ended {
		p.EndedAt = endOf(pod)
		p.Served = p.EndedAt.Sub(pod.CreationTimestamp.Time) >= servedAfter
	}
	return p
}

// endOf is when the last container of a pod ended, as far as the kubelet said.
func endOf(pod *corev1.Pod) time.Time {
	end := pod.CreationTimestamp.Time
	for _, c := range pod.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil && t.FinishedAt.After(end) {
			end = t.FinishedAt.Time
		}
	}
	return end
}

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
