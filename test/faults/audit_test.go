package faults

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// kinds is everything that a pool is made of, the pool itself included.
var kinds = []schema.GroupVersionKind{
	v1alpha1.GroupVersion.WithKind("WorkerPool"),
	v1alpha1.GroupVersion.WithKind("WorkerGroup"),
	corev1.SchemeGroupVersion.WithKind("Pod"),
	policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"),
	corev1.SchemeGroupVersion.WithKind("Service"),
	corev1.SchemeGroupVersion.WithKind("ServiceAccount"),
	rbacv1.SchemeGroupVersion.WithKind("Role"),
	rbacv1.SchemeGroupVersion.WithKind("RoleBinding"),
}

// life is one object from its creation to its end, in revisions of the store: they order all kinds.
type life struct {
	kind  string
	name  string
	uid   types.UID
	owner types.UID
	born  uint64
	// died is 0 while it lives; killed is when it was given no more time, which for a pod says that nothing of it runs; 0 when it was not.
	died, killed uint64
}

// over says whether the life ended before a revision.
func (l *life) over(revision uint64) bool {
	return (l.died != 0 && l.died <= revision) || (l.killed != 0 && l.killed <= revision)
}

func (l *life) String() string { return l.kind + " " + l.name }

// version is a pool or a group as it was at one revision of the store.
type version struct {
	revision uint64
	pool     *v1alpha1.WorkerPool
	group    *v1alpha1.WorkerGroup
}

// audit watches the whole API server beside the operator, and remembers every object that ever was, and of pools and groups every version.
type audit struct {
	mu    sync.Mutex
	lives map[string]map[types.UID]*life
	// pools and groups by namespace, each in order of revision.
	pools  map[string][]version
	groups map[string][]version
	broken error
	done   sync.WaitGroup
	stop   context.CancelFunc
}

func startAudit(config *rest.Config) (*audit, error) {
	c, err := client.NewWithWatch(config, client.Options{Scheme: server.Client.Scheme()})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &audit{lives: map[string]map[types.UID]*life{}, pools: map[string][]version{}, groups: map[string][]version{}, stop: stop}
	for _, kind := range kinds {
		w, err := c.Watch(ctx, listOf(kind))
		if err != nil {
			stop()
			return nil, err
		}
		a.done.Go(func() { a.follow(ctx, kind.Kind, w) })
	}
	return a, nil
}

// listOf is what is watched of a kind: the whole of pools and groups, the metadata of the rest.
func listOf(kind schema.GroupVersionKind) client.ObjectList {
	switch kind.Kind {
	case "WorkerPool":
		return &v1alpha1.WorkerPoolList{}
	case "WorkerGroup":
		return &v1alpha1.WorkerGroupList{}
	}
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	return list
}

// Stop ends the watches. It returns an error when one of them ended before: what it had not seen is not known.
func (a *audit) Stop() error {
	a.stop()
	a.done.Wait()
	return a.fault()
}

func (a *audit) fault() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.broken
}

func (a *audit) follow(ctx context.Context, kind string, w watch.Interface) {
	defer w.Stop()
	for event := range w.ResultChan() {
		object, ok := event.Object.(client.Object)
		if _, isStatus := event.Object.(*metav1.Status); isStatus {
			ok = false
		}
		if !ok && ctx.Err() != nil {
			return // Stop cut the stream
		}
		if !ok {
			a.fail(fmt.Errorf("audit of %s: %v", kind, event.Object))
			return
		}
		if err := a.note(kind, event.Type, object); err != nil {
			a.fail(err)
			return
		}
	}
	if ctx.Err() == nil {
		a.fail(fmt.Errorf("audit of %s: the watch ended", kind))
	}
}

func (a *audit) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.broken = err
}

func (a *audit) note(kind string, what watch.EventType, object client.Object) error {
	revision, err := strconv.ParseUint(object.GetResourceVersion(), 10, 64)
	if err != nil {
		return fmt.Errorf("audit of %s %s: revision %q: %w", kind, object.GetName(), object.GetResourceVersion(), err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	namespace := object.GetNamespace()
	inside := a.lives[namespace]
	if inside == nil {
		inside = map[types.UID]*life{}
		a.lives[namespace] = inside
	}
	l := inside[object.GetUID()]
	if l == nil {
		l = &life{kind: kind, name: object.GetName(), uid: object.GetUID(), born: revision}
		inside[object.GetUID()] = l
	}
	switch o := object.(type) {
	case *v1alpha1.WorkerPool:
		a.pools[namespace] = append(a.pools[namespace], version{revision: revision, pool: o})
	case *v1alpha1.WorkerGroup:
		a.groups[namespace] = append(a.groups[namespace], version{revision: revision, group: o})
	}
	if owner := ownerOf(kind, object); owner != "" {
		l.owner = owner
	}
	if what == watch.Deleted {
		l.died = revision
	}
	if grace := object.GetDeletionGracePeriodSeconds(); kind == "Pod" && grace != nil && *grace == 0 && l.killed == 0 {
		l.killed = revision
	}
	return nil
}

// ownerOf is the pool or the group that an object belongs to, by its reference or else by its labels.
func ownerOf(kind string, object metav1.Object) types.UID {
	if by := metav1.GetControllerOf(object); by != nil {
		return by.UID
	}
	if kind == "Pod" {
		return types.UID(object.GetLabels()[v1alpha1.LabelGroupUID])
	}
	return types.UID(object.GetLabels()[v1alpha1.LabelPoolUID])
}

// seen is a copy of all lives in a namespace, in order of birth.
func (a *audit) seen(namespace string) []life {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []life
	for _, l := range a.lives[namespace] {
		all = append(all, *l)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].born < all[j].born })
	return all
}

// history is all versions of the pools and of the groups in a namespace.
func (a *audit) history(namespace string) (pools, groups []version) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.pools[namespace]), slices.Clone(a.groups[namespace])
}

// forget drops the versions of a namespace that is judged: a long run has thousands of them.
func (a *audit) forget(namespace string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pools, namespace)
	delete(a.groups, namespace)
}

// creates counts how often each name was made; pools are the user's and do not count, nor does what has no owner. Pods count by their group:
// which number one gets depends on whether the one before is gone already.
func creates(lives []life) map[string]int {
	names := map[types.UID]string{}
	made := map[string]int{}
	for _, l := range lives {
		names[l.uid] = l.String()
		switch {
		case l.owner == "":
		case l.kind == "Pod":
			made["a pod of "+names[l.owner]]++
		default:
			made[l.String()]++
		}
	}
	return made
}

// outlived lists every object that was there when its owner was not: at any time, not only at the end. Owners that the user removed by force
// are named in forced.
func outlived(lives []life, forced map[types.UID]bool) []string {
	owners := map[types.UID]life{}
	for _, l := range lives {
		owners[l.uid] = l
	}
	var found []string
	for _, l := range lives {
		owner, known := owners[l.owner]
		if !known || owner.died == 0 || forced[owner.uid] {
			continue
		}
		if l.died == 0 || l.died > owner.died {
			found = append(found, fmt.Sprintf("%s was there when its owner, %s with UID %s, was gone", l.String(), owner.String(), owner.uid))
		}
	}
	return found
}

// crowded lists every pool that had more than one pod at a time: a pool has one group, and that one pod. Groups that the user removed by force
// leave theirs behind.
func crowded(lives []life, forced map[types.UID]bool) []string {
	pools := map[types.UID]types.UID{}
	for _, l := range lives {
		if l.kind == "WorkerGroup" && !forced[l.uid] {
			pools[l.uid] = l.owner
		}
	}
	var found []string
	for i, a := range lives {
		for _, b := range lives[i+1:] {
			if a.kind == "Pod" && b.kind == "Pod" && pools[a.owner] != "" && pools[a.owner] == pools[b.owner] && !a.over(b.born) {
				found = append(found, fmt.Sprintf("pods %s and %s of one pool lived at the same time", a.name, b.name))
			}
		}
	}
	return found
}

// unmarked lists every group that was asked to drain and then no longer was.
func unmarked(groups []version) []string {
	marked := map[types.UID]bool{}
	var found []string
	for _, v := range groups {
		if marked[v.group.UID] && v.group.Spec.DrainRequest == nil {
			found = append(found, fmt.Sprintf("group %s was marked to drain, and the mark was taken away", v.group.Name))
		}
		marked[v.group.UID] = v.group.Spec.DrainRequest != nil
	}
	return found
}

// groundless lists what a pool's status said when nothing had been so: that its present spec is carried out. The first time that it says this
// of a generation there must have been a group that is as the pool wants it, with a router that has followed.
func groundless(pools, groups []version) []string {
	type claim struct {
		uid        types.UID
		generation int64
	}
	made := map[claim]bool{}
	var found []string
	for _, v := range pools {
		c := claim{v.pool.UID, v.pool.Generation}
		if made[c] || !claimsDone(v.pool) {
			continue
		}
		made[c] = true
		grounded := slices.ContainsFunc(groups, func(g version) bool { return g.revision < v.revision && carriesOut(g.group, v.pool) })
		if !grounded {
			found = append(found, fmt.Sprintf("the status of pool %s said at revision %d that generation %d is carried out, and it was not", v.pool.Name, v.revision, v.pool.Generation))
		}
	}
	return found
}

// claimsDone says whether a pool's status says of its present generation that nothing is left to do.
func claimsDone(pool *v1alpha1.WorkerPool) bool {
	ready := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReady)
	return pool.DeletionTimestamp == nil && ready != nil && ready.Status == metav1.ConditionTrue && ready.ObservedGeneration == pool.Generation &&
		meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReconciling) == nil &&
		meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionStalled) == nil
}

// carriesOut says whether a group is as a pool's spec wants it, and its router has followed.
func carriesOut(group *v1alpha1.WorkerGroup, pool *v1alpha1.WorkerPool) bool {
	router := group.Status.Router
	return metav1.IsControlledBy(group, pool) && group.DeletionTimestamp == nil && group.Spec.DrainRequest == nil &&
		group.Spec.Image == pool.Spec.Image && group.Spec.Workers == pool.Spec.Workers && group.Spec.Queue.MaxLength == pool.Spec.Queue.MaxLength &&
		router != nil && router.PodUID == group.Spec.PodUID && router.ObservedGeneration >= group.Generation && router.ReadyWorkers >= pool.Spec.Workers
}
