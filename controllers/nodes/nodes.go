// Package nodes says what the operator needs to know of nodes: which are cordoned or down, which pods are on them, and which changes matter.
//
// It decides nothing and writes nothing; what follows from a node's state is the pool planner's to say.
package nodes

import (
	"context"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
)

// PodsByNode is the index of pods by the name of their node.
const PodsByNode = "spec.nodeName"

// Index makes PodsByNode, once for a manager.
func Index(ctx context.Context, indexer client.FieldIndexer) error {
	return indexer.IndexField(ctx, &corev1.Pod{}, PodsByNode, func(obj client.Object) []string {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
			return []string{pod.Spec.NodeName}
		}
		return nil
	})
}

// Trim keeps of a node only what this package reads: the cache of a large cluster would otherwise hold its images, addresses and labels.
func Trim(obj any) (any, error) {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	kept := &corev1.Node{TypeMeta: node.TypeMeta, ObjectMeta: metav1.ObjectMeta{
		Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion, CreationTimestamp: node.CreationTimestamp,
	}}
	kept.Spec.Unschedulable = node.Spec.Unschedulable
	if c := ready(node); c != nil {
		kept.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status, LastTransitionTime: c.LastTransitionTime}}
	}
	return kept, nil
}

func ready(node *corev1.Node) *corev1.NodeCondition {
	i := slices.IndexFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
	if i < 0 {
		return nil
	}
	return &node.Status.Conditions[i]
}

// DownSince is when the node stopped being Ready; zero while it is, and for one that never said.
func DownSince(node *corev1.Node) time.Time {
	if c := ready(node); c != nil && c.Status != corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// TakesPods says whether the node is Ready and not cordoned.
func TakesPods(node *corev1.Node) bool {
	c := ready(node)
	return !node.Spec.Unschedulable && c != nil && c.Status == corev1.ConditionTrue
}

// Cordoned says whether the node takes no new pods, this one's like included: a pod that tolerates the cordon would be made again on the node
// that it is moved away from.
func Cordoned(node *corev1.Node, pod *corev1.Pod) bool {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	return node.Spec.Unschedulable && !slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
		return t.ToleratesTaint(logr.Discard(), &taint, false)
	})
}

// Changed passes the changes of nodes that mean something: cordoned or not, Ready or not. Each node reports every few seconds; that is not one.
// A node that comes or goes is not one either: its pods say what becomes of them.
func Changed() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return true },
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			was, okWas := e.ObjectOld.(*corev1.Node)
			now, okNow := e.ObjectNew.(*corev1.Node)
			return okWas && okNow && (was.Spec.Unschedulable != now.Spec.Unschedulable || !DownSince(was).Equal(DownSince(now)))
		},
	}
}
