package workerpool

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/nodes"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/plan"
)

// place is where a group's pod is and what is known of it there.
type place struct {
	node plan.Node
	pod  string
	// runs: a pod exists that has not ended; serving: one carries the label that the Service selects.
	runs    bool
	serving bool
}

// observePlaces looks for the node of each group's pod in the cache. A node that is not there says nothing.
func (r *Reconciler) observePlaces(ctx context.Context, groups []v1alpha1.WorkerGroup, pods map[types.UID][]*corev1.Pod) (map[types.UID]place, error) {
	places := map[types.UID]place{}
	for i := range groups {
		group := &groups[i]
		var at place
		for _, pod := range pods[group.UID] {
			if ended := pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded; !ended {
				at.runs = true
				at.serving = at.serving || pod.Labels[v1alpha1.LabelServing] == "true"
			}
		}
		if pod := placedPod(group, pods[group.UID]); pod != nil {
			at.pod, at.node.Name = pod.Name, pod.Spec.NodeName
			if err := r.look(ctx, pod, &at.node); err != nil {
				return nil, err
			}
		}
		places[group.UID] = at
	}
	return places, nil
}

// placedPod is the group's pod on a node: the one that the group names, else one that is not ending.
func placedPod(group *v1alpha1.WorkerGroup, pods []*corev1.Pod) *corev1.Pod {
	var placed *corev1.Pod
	for _, pod := range pods {
		switch {
		case pod.Spec.NodeName == "":
		case pod.UID == group.Spec.PodUID:
			return pod
		case placed == nil && pod.DeletionTimestamp == nil:
			placed = pod
		}
	}
	return placed
}

func (r *Reconciler) look(ctx context.Context, pod *corev1.Pod, into *plan.Node) error {
	if !r.WatchNodes || into.Name == "" {
		return nil
	}
	var node corev1.Node
	if err := r.Writer.Client.Get(ctx, types.NamespacedName{Name: into.Name}, &node); err != nil {
		return client.IgnoreNotFound(err)
	}
	into.Cordoned, into.DownSince = nodes.Cordoned(&node, pod), nodes.DownSince(&node)
	if into.DownSince.IsZero() {
		return nil
	}
	var all corev1.NodeList
	if err := r.Writer.Client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	into.Alone = !slices.ContainsFunc(all.Items, func(n corev1.Node) bool { return nodes.TakesPods(&n) })
	return nil
}

// defaultFailover is failover.after when it is unset; the same as in the CRD.
const defaultFailover = time.Minute

func failoverAfter(pool *v1alpha1.WorkerPool) time.Duration {
	if t := pool.Spec.Failover.After; t != nil {
		return t.Duration
	}
	return defaultFailover
}
