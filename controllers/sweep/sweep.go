// Package sweep removes, now and then, children whose owner is gone: what a pool that was removed by force, or by an older operator, left.
//
// It is a second line. Normally the finalizers see to it that an owner outlives its children. It looks at UIDs, never at names.
package sweep

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/metrics"
	"github.com/snakepit-k8s/snakepit/controllers/writer"
)

// Interval between two sweeps.
const Interval = 5 * time.Minute

// Sweeper runs in the leader only.
type Sweeper struct {
	Writer *writer.Writer
	Log    logr.Logger
	Clock  clock.WithTicker
	// Metrics counts what is removed; nil counts nothing.
	Metrics *metrics.Metrics
	// WatchNodes: the operator makes PodDisruptionBudgets too.
	WatchNodes bool
}

// NeedLeaderElection is true: two sweepers would do the same work twice.
func (s *Sweeper) NeedLeaderElection() bool { return true }

// Start sweeps until the context ends.
func (s *Sweeper) Start(ctx context.Context) error {
	ticker := s.Clock.NewTicker(Interval)
	defer ticker.Stop()
	for {
		if _, err := s.Sweep(ctx); err != nil {
			s.Log.Info("sweep not finished; the next one goes on", "because", err.Error())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
	}
}

// Sweep looks once and returns how many objects it deleted.
func (s *Sweeper) Sweep(ctx context.Context) (int, error) {
	lists := []client.ObjectList{
		&v1alpha1.WorkerGroupList{}, &corev1.PodList{}, &corev1.ServiceList{}, &corev1.ServiceAccountList{}, &rbacv1.RoleList{}, &rbacv1.RoleBindingList{},
	}
	if s.WatchNodes {
		lists = append(lists, &policyv1.PodDisruptionBudgetList{})
	}
	deleted := 0
	for _, list := range lists {
		if err := s.Writer.Client.List(ctx, list); err != nil {
			return deleted, err
		}
		items, err := meta.ExtractList(list)
		if err != nil {
			return deleted, err
		}
		for _, item := range items {
			child, ok := item.(client.Object)
			if !ok || child.GetDeletionTimestamp() != nil {
				continue
			}
			orphan, err := s.orphan(ctx, child)
			if err != nil {
				return deleted, err
			}
			if !orphan {
				continue
			}
			if err := s.Writer.Delete(ctx, child.GetUID(), child, nil); err != nil {
				return deleted, err
			}
			deleted++
			s.Metrics.Orphan()
			s.Log.Info("removed a child whose owner is gone", "type", fmt.Sprintf("%T", child), "namespace", child.GetNamespace(), "name", child.GetName())
		}
	}
	return deleted, nil
}

// orphan says whether the owner that child names by UID is gone, by the cache and by the API server itself.
func (s *Sweeper) orphan(ctx context.Context, child client.Object) (bool, error) {
	owner, name, uid := ownerOf(child)
	if uid == "" || name == "" {
		return false, nil
	}
	key := types.NamespacedName{Namespace: child.GetNamespace(), Name: name}
	for _, reader := range []client.Reader{s.Writer.Client, s.Writer.Live} {
		err := reader.Get(ctx, key, owner)
		if client.IgnoreNotFound(err) != nil {
			return false, err
		}
		if !apierrors.IsNotFound(err) && owner.GetUID() == uid {
			return false, nil
		}
	}
	return true, nil
}

// ownerOf is the pool or group that a child names, by its reference or, without one, by its labels.
func ownerOf(child client.Object) (empty client.Object, name string, uid types.UID) {
	labels := child.GetLabels()
	if _, isPod := child.(*corev1.Pod); isPod {
		empty, name, uid = &v1alpha1.WorkerGroup{}, labels[v1alpha1.LabelGroup], types.UID(labels[v1alpha1.LabelGroupUID])
	} else {
		empty, name, uid = &v1alpha1.WorkerPool{}, labels[v1alpha1.LabelPool], types.UID(labels[v1alpha1.LabelPoolUID])
	}
	if by := metav1.GetControllerOf(child); by != nil {
		if by.APIVersion != v1alpha1.GroupVersion.String() {
			return empty, "", ""
		}
		name, uid = by.Name, by.UID
	}
	return empty, name, uid
}
