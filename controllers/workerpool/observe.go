package workerpool

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/seeded"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/plan"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/resources"
	"github.com/snakepit-k8s/snakepit/controllers/writer"
)

// observation is one look at a pool.
type observation struct {
	pool     *v1alpha1.WorkerPool
	revision string
	groups   []v1alpha1.WorkerGroup
	used     map[int]bool
	// places say where the groups' pods are, by the group's UID.
	places   map[types.UID]place
	orphans  []corev1.Pod
	children []plan.Child
	role     []string
	// refused is what the API server said about a child that it does not allow; known after the plan was applied.
	refused string
}

// observe reads the cache. Only an object that the cache does not hold and that shall exist is asked for at the API server itself: the cache
// is restricted to objects that carry our label, and a name may be taken by one that does not.
func (r *Reconciler) observe(ctx context.Context, pool *v1alpha1.WorkerPool) (*observation, error) {
	revision, err := resources.Revision(&pool.Spec.PodSettings)
	if err != nil {
		return nil, err
	}
	obs := &observation{pool: pool, revision: revision, used: map[int]bool{}}
	var groups v1alpha1.WorkerGroupList
	if err := r.Writer.Client.List(ctx, &groups, client.InNamespace(pool.Namespace), writer.Naming(pool.UID)); err != nil {
		return nil, err
	}
	for _, group := range groups.Items {
		if writer.OwnedBy(&group, pool.UID) && r.memory.Knows(group.UID) {
			obs.groups = append(obs.groups, group)
		}
	}
	var pods corev1.PodList
	if err := r.Writer.Client.List(ctx, &pods, client.InNamespace(pool.Namespace), writer.Naming(pool.UID)); err != nil {
		return nil, err
	}
	if err := r.observeNames(ctx, obs, pods.Items); err != nil {
		return nil, err
	}
	alive := map[string]bool{}
	for i := range obs.groups {
		alive[string(obs.groups[i].UID)] = true
	}
	ofGroup := map[types.UID][]*corev1.Pod{}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Labels[v1alpha1.LabelPoolUID] != string(pool.UID) {
			continue
		}
		group := holder(pod, obs.groups)
		if !alive[group] {
			obs.orphans = append(obs.orphans, *pod)
			continue
		}
		ofGroup[types.UID(group)] = append(ofGroup[types.UID(group)], pod)
	}
	if obs.places, err = r.observePlaces(ctx, obs.groups, ofGroup); err != nil {
		return nil, err
	}
	return obs, r.observeChildren(ctx, obs)
}

// holder is the UID of the group whose pod it is: the group that names it, else the pod's controller, else its label. Labels can be changed
// by anybody, and a pod that serves is not deleted for that.
func holder(pod *corev1.Pod, groups []v1alpha1.WorkerGroup) string {
	for i := range groups {
		if groups[i].Spec.PodUID == pod.UID {
			return string(groups[i].UID)
		}
	}
	if by := metav1.GetControllerOf(pod); by != nil {
		return string(by.UID)
	}
	return pod.Labels[v1alpha1.LabelGroupUID]
}

// observeNames finds which names of the current revision's groups are in use, whoever owns the group: as many as are in a row.
func (r *Reconciler) observeNames(ctx context.Context, obs *observation, pods []corev1.Pod) error {
	for n := 0; ; n++ {
		var group v1alpha1.WorkerGroup
		key := types.NamespacedName{Namespace: obs.pool.Namespace, Name: resources.GroupName(obs.pool.Name, obs.revision, n)}
		err := r.Writer.Client.Get(ctx, key, &group)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		obs.used[n] = true
		if stripped(obs.pool, &group, pods) && r.memory.Knows(group.UID) && !slices.ContainsFunc(obs.groups, func(g v1alpha1.WorkerGroup) bool { return g.UID == group.UID }) {
			obs.groups = append(obs.groups, group)
		}
	}
}

// stripped says that a group is the pool's although its labels and its reference do not say so: it has no controller, and a pod of the pool was
// made for it. It gets them back. A group without such a pod may be anybody's, whatever its name is: it is never adopted.
func stripped(pool *v1alpha1.WorkerPool, group *v1alpha1.WorkerGroup, pods []corev1.Pod) bool {
	return metav1.GetControllerOf(group) == nil && slices.ContainsFunc(pods, func(pod corev1.Pod) bool {
		return pod.Labels[v1alpha1.LabelPoolUID] == string(pool.UID) && pod.Labels[v1alpha1.LabelGroupUID] == string(group.UID)
	})
}

// childLook is what to look for of one object beside the groups.
type childLook struct {
	kind    plan.Kind
	name    string
	have    client.Object
	wanted  bool
	matches func() bool
	// wrong says that it cannot be made right by applying what is wanted, and must be made anew; nil for never.
	wrong func() bool
}

func lookForBudget(pool *v1alpha1.WorkerPool) childLook {
	want, have := resources.MakePodDisruptionBudget(pool), &policyv1.PodDisruptionBudget{}
	return childLook{
		plan.PodDisruptionBudget, pool.Name, have, want != nil,
		func() bool { return resources.PodDisruptionBudgetMatches(want, have) },
		// The API server allows only one of the two, and what another manager set stays with an apply.
		func() bool { return have.Spec.MaxUnavailable != nil },
	}
}

func (r *Reconciler) observeChildren(ctx context.Context, obs *observation) error {
	pool := obs.pool
	account := &corev1.ServiceAccount{}
	role := &rbacv1.Role{}
	binding := &rbacv1.RoleBinding{}
	service := &corev1.Service{}
	wantAccount := resources.MakeServiceAccount(pool)
	access := resources.AccessName(pool.Name)
	look := []childLook{
		{plan.ServiceAccount, access, account, wantAccount != nil, func() bool { return resources.ServiceAccountMatches(wantAccount, account) }, nil},
		{plan.Role, access, role, true, func() bool { return resources.RoleMatches(resources.MakeRole(pool, roleGroups(role)), role) }, nil},
		{plan.RoleBinding, access, binding, true, func() bool { return resources.RoleBindingMatches(resources.MakeRoleBinding(pool), binding) }, nil},
		{plan.Service, pool.Name, service, true, func() bool { return resources.ServiceMatches(resources.MakeService(pool), service) }, nil},
	}
	if r.WatchNodes {
		look = append(look, lookForBudget(pool))
	}
	for _, l := range look {
		found, err := r.find(ctx, types.NamespacedName{Namespace: pool.Namespace, Name: l.name}, l.have, l.wanted && pool.DeletionTimestamp == nil)
		if err != nil {
			return err
		}
		child := plan.Child{Kind: l.kind, Name: l.name, State: plan.Missing}
		switch {
		case !found && !l.wanted:
			child.State = plan.Absent
		case !found:
		case !writer.OwnedBy(l.have, pool.UID) && !l.wanted:
			child.State = plan.Absent
		case !writer.OwnedBy(l.have, pool.UID):
			child.State = plan.Taken
		case !l.wanted || (l.wrong != nil && l.wrong()):
			child.State, child.UID = plan.Unwanted, l.have.GetUID()
		case l.matches():
			child.State, child.UID = plan.Matching, l.have.GetUID()
		default:
			child.State, child.UID = plan.Different, l.have.GetUID()
		}
		obs.children = append(obs.children, child)
	}
	obs.role = roleGroups(role)
	return nil
}

// find gets an object from the cache and, if asked, from the API server when the cache has none.
func (r *Reconciler) find(ctx context.Context, key types.NamespacedName, into client.Object, live bool) (bool, error) {
	err := r.Writer.Client.Get(ctx, key, into)
	if apierrors.IsNotFound(err) && live {
		err = r.Writer.Live.Get(ctx, key, into)
	}
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func roleGroups(role *rbacv1.Role) []string {
	if len(role.Rules) == 0 {
		return nil
	}
	return role.Rules[0].ResourceNames
}

// trusted says whether what the router wrote counts: it is the router of the group's current, Ready pod.
func trusted(group *v1alpha1.WorkerGroup) bool {
	return sameRouter(group) && reachable(group) && ofPresentPod(group)
}

// ofPresentPod says whether what the group's controller wrote is about the pod that the group names now: podName is written with the conditions,
// and ends with the number before nextPod. Names of another kind have no number.
func ofPresentPod(group *v1alpha1.WorkerGroup) bool {
	next := group.Spec.NextPod
	return next == 0 || strings.HasSuffix(group.Status.PodName, fmt.Sprintf("-%d", next-1))
}

// upToDate returns the condition that the group's controller wrote about the group's present generation; nil when it wrote none, or has not
// looked since.
func upToDate(group *v1alpha1.WorkerGroup, kind string) *metav1.Condition {
	if c := meta.FindStatusCondition(group.Status.Conditions, kind); c != nil && c.ObservedGeneration >= group.Generation {
		return c
	}
	return nil
}

// sameRouter says whether the router's word is that of the group's current pod, Ready or not.
func sameRouter(group *v1alpha1.WorkerGroup) bool {
	router := group.Status.Router
	return router != nil && router.PodUID != "" && router.PodUID == group.Spec.PodUID
}

// reachable says whether the group has a pod that is Ready, by the last word of the group's controller: something may run that must be drained.
func reachable(group *v1alpha1.WorkerGroup) bool {
	return meta.IsStatusConditionTrue(group.Status.Conditions, v1alpha1.ConditionRouterReady)
}

// input is the observation in the planner's words.
func (o *observation) input(now time.Time) plan.Input {
	in := plan.Input{
		Now: now,
		Pool: plan.Pool{
			Deleting:     o.pool.DeletionTimestamp != nil,
			Finalizer:    slices.Contains(o.pool.Finalizers, v1alpha1.Finalizer),
			Revision:     o.revision,
			UsedOrdinals: o.used,
			RoleGroups:   o.role,

			Hold:          o.pool.Spec.Drain.OnDeadline == v1alpha1.DrainHold,
			FailoverAfter: failoverAfter(o.pool),
		},
		Children:  o.children,
		GroupName: func(n int) string { return resources.GroupName(o.pool.Name, o.revision, n) },
	}
	_, in.Pool.DrainAsked = resources.DrainAsked(o.pool)
	for i := range o.groups {
		g := &o.groups[i]
		at := o.places[g.UID]
		marked := g.Spec.DrainRequest != nil
		rechosen := seeded.RechosenVictims && marked && g.Spec.Revision == o.revision && o.pool.DeletionTimestamp == nil
		ordinal, _ := resources.GroupOrdinal(o.pool.Name, g.Spec.Revision, g.Name)
		planned := plan.Group{
			Name: g.Name, UID: g.UID, Revision: resources.RevisionOf(g), Ordinal: ordinal,
			Deleting:     g.DeletionTimestamp != nil,
			DrainTimeout: drainTimeout(g),
			Reachable:    reachable(g),
			Drained:      trusted(g) && g.Status.Router.Drained,
			Matching:     !rechosen && resources.GroupMatches(wanted(o, g), g),
			Node:         at.node, Runs: at.runs, Serving: at.serving,
		}
		if d := g.Spec.DrainRequest; marked && !rechosen {
			planned.Drain = &plan.Drain{Started: d.StartedAt.Time, Deadline: d.Deadline.Time, Cause: d.Cause, Held: d.Held()}
		}
		in.Groups = append(in.Groups, planned)
	}
	if seeded.LateFinalizer && len(o.groups) == 0 {
		in.Pool.Finalizer = true
	}
	for _, pod := range o.orphans {
		in.Orphans = append(in.Orphans, plan.Pod{Name: pod.Name, UID: pod.UID, Terminating: pod.DeletionTimestamp != nil})
	}
	return in
}

// defaultDrain is drain.timeout when it is unset; the same as in the CRD.
const defaultDrain = 30 * time.Second

func drainTimeout(group *v1alpha1.WorkerGroup) time.Duration {
	if t := group.Spec.Drain.Timeout; t != nil {
		return t.Duration
	}
	return defaultDrain
}
