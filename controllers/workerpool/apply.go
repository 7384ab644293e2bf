package workerpool

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/metrics"
	"github.com/snakepit-k8s/snakepit/controllers/nodes"
	"github.com/snakepit-k8s/snakepit/controllers/seeded"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/plan"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/resources"
	"github.com/snakepit-k8s/snakepit/controllers/writer"
)

// errNodeBack: the API server says that a node is well, which the cache shows as lost.
var errNodeBack = errors.New("the node is back")

// errLeft: the API server still knows children of a pool that the cache shows without any.
var errLeft = errors.New("objects of the pool are left")

// apply carries out the plan. A refused child is an outcome for the status and not an error.
func (r *Reconciler) apply(ctx context.Context, obs *observation, p plan.Plan) (refused string, err error) {
	for _, action := range p.Actions {
		switch a := action.(type) {
		case plan.AddFinalizer:
			err = r.Writer.SetFinalizer(ctx, obs.pool, true)
		case plan.EnsureChild:
			err = r.ensureChild(ctx, obs.pool, a)
		case plan.DeleteChild:
			err = r.Writer.Delete(ctx, obs.pool.UID, emptyChild(obs.pool, a.Child), nil)
		case plan.CreateGroup:
			err = r.createGroup(ctx, obs, a)
		case plan.UpdateGroup:
			err = r.updateGroup(ctx, obs, a)
		case plan.DrainGroup:
			err = r.drainGroup(ctx, obs, a)
		case plan.DeleteGroup:
			err = r.deleteGroup(ctx, obs, a)
		case plan.DeletePod:
			err = r.deleteOrphan(ctx, obs, a.Pod)
		case plan.Release:
			err = r.release(ctx, obs.pool)
		default:
			err = fmt.Errorf("bug: unknown action %T", action)
		}
		if writer.Refused(err) {
			r.Metrics.Refused(kindOf(action))
			return fmt.Sprintf("the API server refused a part of pool %s: %v. Change the quota, policy or webhook that it names, or the operator's rights; it is tried again", obs.pool.Name, err), nil
		}
		if err != nil {
			return "", err
		}
	}
	return "", nil
}

// deleteOrphan deletes a pod whose group is gone by the word of the API server itself: the cache of groups may lag behind that of pods.
func (r *Reconciler) deleteOrphan(ctx context.Context, obs *observation, orphan plan.Pod) error {
	for i := range obs.orphans {
		pod := &obs.orphans[i]
		if pod.UID != orphan.UID {
			continue
		}
		name := pod.Labels[v1alpha1.LabelGroup]
		if by := metav1.GetControllerOf(pod); by != nil {
			name = by.Name
		}
		if name == "" {
			return r.Writer.Delete(ctx, obs.pool.UID, pod, nil)
		}
		var group v1alpha1.WorkerGroup
		err := r.Writer.Live.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: name}, &group)
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		if err == nil && holder(pod, []v1alpha1.WorkerGroup{group}) == string(group.UID) {
			return nil
		}
		return r.Writer.Delete(ctx, obs.pool.UID, pod, nil)
	}
	return nil
}

func (r *Reconciler) ensureChild(ctx context.Context, pool *v1alpha1.WorkerPool, a plan.EnsureChild) error {
	child := makeChild(pool, a.Child.Kind, a.Groups)
	if a.Child.State == plan.Missing {
		return r.Writer.Create(ctx, pool.UID, child)
	}
	child.SetUID(a.Child.UID)
	if service, is := child.(*corev1.Service); is {
		if err := r.clearService(ctx, service, pool.UID); err != nil {
			return err
		}
	}
	fields, err := writer.Fields(child)
	if err != nil {
		return err
	}
	return r.Writer.Apply(ctx, pool.UID, child, fields, v1alpha1.FieldManagerOperator)
}

// clearService takes away ports and selectors that others added to the pool's Service. It keeps its address.
func (r *Reconciler) clearService(ctx context.Context, want *corev1.Service, owner types.UID) error {
	var have corev1.Service
	if err := r.Writer.Client.Get(ctx, client.ObjectKeyFromObject(want), &have); err != nil || have.UID != want.UID {
		return client.IgnoreNotFound(err)
	}
	if additions := resources.ServiceAdditions(want, &have); additions != nil {
		return r.Writer.Merge(ctx, owner, &have, additions)
	}
	return nil
}

func makeChild(pool *v1alpha1.WorkerPool, kind plan.Kind, groups []string) client.Object {
	switch kind {
	case plan.ServiceAccount:
		return resources.MakeServiceAccount(pool)
	case plan.Role:
		return resources.MakeRole(pool, groups)
	case plan.RoleBinding:
		return resources.MakeRoleBinding(pool)
	case plan.PodDisruptionBudget:
		return resources.MakePodDisruptionBudget(pool)
	default:
		return resources.MakeService(pool)
	}
}

// emptyChild names an object beside the groups by kind, name and UID.
func emptyChild(pool *v1alpha1.WorkerPool, c plan.Child) client.Object {
	var obj client.Object
	switch c.Kind {
	case plan.ServiceAccount:
		obj = &corev1.ServiceAccount{}
	case plan.Role:
		obj = &rbacv1.Role{}
	case plan.RoleBinding:
		obj = &rbacv1.RoleBinding{}
	case plan.PodDisruptionBudget:
		obj = &policyv1.PodDisruptionBudget{}
	default:
		obj = &corev1.Service{}
	}
	obj.SetNamespace(pool.Namespace)
	obj.SetName(c.Name)
	obj.SetUID(c.UID)
	return obj
}

func (r *Reconciler) createGroup(ctx context.Context, obs *observation, a plan.CreateGroup) error {
	// The cache of groups may lag behind that of pools, and show a name as taken by a group of the former pool: a second group would be made.
	var have v1alpha1.WorkerGroupList
	if err := r.Writer.Live.List(ctx, &have, client.InNamespace(obs.pool.Namespace), client.MatchingLabels{v1alpha1.LabelPoolUID: string(obs.pool.UID)}); err != nil {
		return err
	}
	for i := range have.Items {
		// By UID and not by number: a lost group may stand beside the one that is made.
		known := func(g v1alpha1.WorkerGroup) bool { return g.UID == have.Items[i].UID }
		if !slices.ContainsFunc(obs.groups, known) {
			return fmt.Errorf("%w: group %s, which the cache lacks", errLeft, have.Items[i].Name)
		}
	}
	// With the request for fresh processes from the first moment: a router that finds one when it begins takes it for carried out.
	group := resources.MakeGroup(obs.pool, obs.revision, a.Ordinal)
	if err := r.Writer.Create(ctx, obs.pool.UID, group); err != nil {
		return err
	}
	r.memory.Made(group.UID)
	r.event(obs.pool, group, corev1.EventTypeNormal, v1alpha1.EventGroupCreated, "CreateGroup", "created group %s: %s", group.Name, a.Reason)
	return nil
}

// applyGroup gives a group the pool's live settings and, if it is given, the request to drain. What this manager owns is applied as a whole
// each time, so nothing of it can be left out.
func (r *Reconciler) applyGroup(ctx context.Context, obs *observation, g plan.Group, drain *v1alpha1.DrainRequest) error {
	want := resources.MakeGroup(obs.pool, g.Revision, g.Ordinal)
	want.Name, want.UID = g.Name, g.UID
	spec, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&want.Spec.LiveSettings)
	if err != nil {
		return err
	}
	spec["workers"], spec["poolName"], spec["revision"] = int64(want.Spec.Workers), want.Spec.PoolName, want.Spec.Revision
	if want.Spec.RecycleRequest != nil {
		if spec["recycleRequest"], err = runtime.DefaultUnstructuredConverter.ToUnstructured(want.Spec.RecycleRequest); err != nil {
			return err
		}
	}
	if drain != nil {
		if spec["drainRequest"], err = runtime.DefaultUnstructuredConverter.ToUnstructured(drain); err != nil {
			return err
		}
	}
	all, err := writer.Fields(want)
	if err != nil {
		return err
	}
	metadata, _ := all["metadata"].(map[string]any)
	delete(metadata, "finalizers")
	return r.Writer.Apply(ctx, obs.pool.UID, want, map[string]any{"metadata": metadata, "spec": spec}, v1alpha1.FieldManagerOperator)
}

func (r *Reconciler) updateGroup(ctx context.Context, obs *observation, a plan.UpdateGroup) error {
	for i := range obs.groups {
		// A request that Create or somebody else wrote is not what this manager applied, so Apply would leave it.
		if g := &obs.groups[i]; g.UID == a.Group.UID && g.Spec.RecycleRequest != nil && wanted(obs, g).Spec.RecycleRequest == nil {
			if err := r.Writer.Merge(ctx, obs.pool.UID, g, map[string]any{"spec": map[string]any{"recycleRequest": nil}}); err != nil {
				return err
			}
		}
	}
	if err := r.applyGroup(ctx, obs, a.Group, nil); err != nil {
		return err
	}
	r.event(obs.pool, reference(obs, a.Group), corev1.EventTypeNormal, v1alpha1.EventGroupUpdated, "UpdateGroup",
		"group %s follows the pool, with %d workers: %s", a.Group.Name, obs.pool.Spec.Workers, a.Reason)
	return nil
}

func (r *Reconciler) drainGroup(ctx context.Context, obs *observation, a plan.DrainGroup) error {
	request := &v1alpha1.DrainRequest{StartedAt: metav1.NewTime(a.Started), Deadline: metav1.NewTime(a.Deadline), Cause: a.Cause}
	lost := a.Cause == v1alpha1.DrainCauseNodeLost
	if lost {
		if err := r.stillDown(ctx, a.Group.Node.Name); err != nil {
			return err
		}
	}
	if err := r.applyGroup(ctx, obs, a.Group, request); err != nil {
		return err
	}
	group := reference(obs, a.Group)
	switch {
	case lost:
		r.event(obs.pool, group, corev1.EventTypeWarning, v1alpha1.EventNodeLost, "DrainGroup",
			"node %s is not Ready since %s: group %s gets a successor, and its sessions are lost; its processes may still run there",
			a.Group.Node.Name, stamp(metav1.NewTime(a.Group.Node.DownSince)), a.Group.Name)
	case a.Group.Drain == nil:
		r.event(obs.pool, group, corev1.EventTypeNormal, v1alpha1.EventDrainStarted, "DrainGroup", "group %s takes no new sessions; %s", a.Group.Name, drainEnd(obs, a.Group.UID, request))
	}
	return nil
}

// stillDown asks the API server itself whether a node is down: what follows cannot be taken back.
func (r *Reconciler) stillDown(ctx context.Context, name string) error {
	var node corev1.Node
	if err := r.Writer.Live.Get(ctx, types.NamespacedName{Name: name}, &node); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	if nodes.DownSince(&node).IsZero() {
		return fmt.Errorf("%w: %s", errNodeBack, name)
	}
	return nil
}

func (r *Reconciler) deleteGroup(ctx context.Context, obs *observation, a plan.DeleteGroup) error {
	group := reference(obs, a.Group)
	if err := r.Writer.Delete(ctx, obs.pool.UID, group, nil); err != nil {
		return err
	}
	if a.Late {
		r.event(obs.pool, group, corev1.EventTypeWarning, v1alpha1.EventDrainTimeout, "DeleteGroup",
			"group %s was not drained by its deadline; %s", a.Group.Name, leftOf(obs, a.Group.UID))
	}
	r.event(obs.pool, group, corev1.EventTypeNormal, v1alpha1.EventGroupDeleted, "DeleteGroup", "deleted group %s: %s", a.Group.Name, a.Reason)
	return nil
}

// release lets the pool go once the API server itself, not the cache, knows nothing that carries its UID. A pool that was let go before is
// not written again.
func (r *Reconciler) release(ctx context.Context, pool *v1alpha1.WorkerPool) error {
	if held, err := r.Writer.Held(ctx, pool); err != nil || !held {
		return err
	}
	lists := []client.ObjectList{
		&v1alpha1.WorkerGroupList{}, &corev1.PodList{}, &corev1.ServiceList{}, &corev1.ServiceAccountList{}, &rbacv1.RoleList{}, &rbacv1.RoleBindingList{},
	}
	if r.WatchNodes {
		lists = append(lists, &policyv1.PodDisruptionBudgetList{})
	}
	live := r.Writer.Live
	if seeded.CachedRelease {
		live = r.Writer.Client
	}
	for _, list := range lists {
		if err := live.List(ctx, list, client.InNamespace(pool.Namespace), client.MatchingLabels{v1alpha1.LabelPoolUID: string(pool.UID)}, client.Limit(1)); err != nil {
			return err
		}
		if meta.LenList(list) > 0 {
			return fmt.Errorf("%w: %T", errLeft, list)
		}
	}
	if err := r.Writer.SetFinalizer(ctx, pool, false); err != nil {
		return err
	}
	r.Metrics.Released(metrics.KindPool, pool.UID, r.Clock.Since(pool.DeletionTimestamp.Time))
	return nil
}

// kindOf is the kind of object that an action writes.
func kindOf(action plan.Action) string {
	switch a := action.(type) {
	case plan.EnsureChild:
		return string(a.Child.Kind)
	case plan.DeleteChild:
		return string(a.Child.Kind)
	case plan.DeletePod:
		return metrics.KindPod
	case plan.AddFinalizer, plan.Release:
		return metrics.KindPool
	}
	return metrics.KindGroup
}

func reference(obs *observation, g plan.Group) *v1alpha1.WorkerGroup {
	return &v1alpha1.WorkerGroup{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "WorkerGroup"},
		ObjectMeta: metav1.ObjectMeta{Namespace: obs.pool.Namespace, Name: g.Name, UID: g.UID},
	}
}

func (r *Reconciler) event(about, related runtime.Object, kind, reason, action, note string, args ...any) {
	r.Events.Eventf(about, related, kind, reason, action, note, args...)
}
