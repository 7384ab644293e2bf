package membership

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// result of one write.
type result int

const (
	applied result = iota
	gone
	failed
)

// statusApply is the whole body of a write: nothing in it is owned by anybody else.
type statusApply struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Namespace string    `json:"namespace"`
		Name      string    `json:"name"`
		UID       types.UID `json:"uid"`
	} `json:"metadata"`
	Status struct {
		Router     v1alpha1.RouterStatus `json:"router"`
		Conditions []metav1.Condition    `json:"conditions,omitempty"`
	} `json:"status"`
}

// apply writes facts to the group with that UID. The group is returned as the API server stored it.
func (r *Reporter) apply(ctx context.Context, uid types.UID, facts *Facts) (*v1alpha1.WorkerGroup, result, error) {
	var wish statusApply
	wish.APIVersion, wish.Kind = v1alpha1.GroupVersion.String(), groupKind
	wish.Metadata.Namespace, wish.Metadata.Name, wish.Metadata.UID = r.namespace, r.name, uid
	wish.Status.Router, wish.Status.Conditions = facts.Router, facts.Conditions
	body, err := json.Marshal(wish)
	if err != nil {
		return nil, failed, err
	}
	answer := &v1alpha1.WorkerGroup{}
	err = r.client.Patch(types.ApplyPatchType).Namespace(r.namespace).Resource(groupResource).Name(r.name).SubResource("status").
		// Force: the fields are the router's alone, so a conflict is only with an earlier owner of them.
		Param("fieldManager", v1alpha1.FieldManagerRouter).Param("force", "true").
		Timeout(requestTimeout).Body(body).Do(ctx).Into(answer)
	switch {
	case err == nil:
		return answer, applied, nil
	case apierrors.IsNotFound(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, gone, err
	case apierrors.IsConflict(err) && r.isAnother(ctx, uid):
		return nil, gone, err
	default:
		return nil, failed, err
	}
}

// isAnother tells a conflict because of the UID (the group does not exist any more, or its name belongs to a new one) from
// one that passes.
func (r *Reporter) isAnother(ctx context.Context, uid types.UID) bool {
	group := &v1alpha1.WorkerGroup{}
	err := r.client.Get().Namespace(r.namespace).Resource(groupResource).Name(r.name).Timeout(requestTimeout).Do(ctx).Into(group)
	return apierrors.IsNotFound(err) || (err == nil && group.UID != uid)
}

// refusal says in constant words why a write failed, so that a repetition is recognized.
func refusal(err error) string {
	const again = "status is not written, and tried again: "
	switch {
	case apierrors.IsUnauthorized(err):
		return again + "the API server does not accept the router's token"
	case apierrors.IsForbidden(err):
		return again + "the router may not patch the status of its WorkerGroup (see the Role of its ServiceAccount)"
	case apierrors.IsInvalid(err) || apierrors.IsBadRequest(err):
		return again + "the API server finds it invalid (does the CRD fit the router's version?)"
	case apierrors.IsConflict(err):
		return again + "conflict"
	default:
		return again + "the API server cannot be reached"
	}
}
