package writer

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// OwnedBy says whether obj belongs to the owner with this UID: by its controller reference, or by its label when it has none
// (kubectl delete --cascade=orphan takes the references away and leaves the labels).
func OwnedBy(obj metav1.Object, owner types.UID) bool {
	if by := metav1.GetControllerOf(obj); by != nil {
		return by.UID == owner
	}
	labels := obj.GetLabels()
	if uid, isPod := labels[v1alpha1.LabelGroupUID]; isPod {
		return uid == string(owner)
	}
	return labels[v1alpha1.LabelPoolUID] == string(owner)
}

// Unowned passes objects that no longer name a controller: Owns does not tell of those.
func Unowned() predicate.Predicate {
	return predicate.NewPredicateFuncs(func(obj client.Object) bool { return metav1.GetControllerOf(obj) == nil })
}

// ownerUID is the name of the cache's index of groups and pods.
const ownerUID = "snakepit.dev/owner-uid"

// IndexOwners lets the cache find groups and pods by the UID of a pool or group that they name. Without it a look at one pool would pass over
// all objects of its namespace, and the work of n pools would grow with n².
func IndexOwners(ctx context.Context, indexer client.FieldIndexer) error {
	for _, kind := range []client.Object{&v1alpha1.WorkerGroup{}, &corev1.Pod{}} {
		if err := indexer.IndexField(ctx, kind, ownerUID, owners); err != nil {
			return err
		}
	}
	return nil
}

// Naming selects, in the cache, the groups or pods that name this UID as that of their pool or group.
func Naming(uid types.UID) client.MatchingFields { return client.MatchingFields{ownerUID: string(uid)} }

// owners are the UIDs under which obj is found: those of its labels and that of its controller.
func owners(obj client.Object) []string {
	labels := obj.GetLabels()
	found := []string{labels[v1alpha1.LabelPoolUID], labels[v1alpha1.LabelGroupUID]}
	if by := metav1.GetControllerOf(obj); by != nil {
		found = append(found, string(by.UID))
	}
	slices.Sort(found)
	return slices.DeleteFunc(slices.Compact(found), func(uid string) bool { return uid == "" })
}
