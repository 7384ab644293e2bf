package faults

import (
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// version is a pool or a group as it was at one revision of the store.
type version struct {
	revision uint64
	pool     *v1alpha1.WorkerPool
	group    *v1alpha1.WorkerGroup
}

// audit remembers beside every object that ever was every version of pools and groups.
type audit struct {
	*fixture.Audit
	mu sync.Mutex
	// pools and groups by namespace, each in order of revision.
	pools  map[string][]version
	groups map[string][]version
}

func startAudit(config *rest.Config) (*audit, error) {
	a := &audit{pools: map[string][]version{}, groups: map[string][]version{}}
	var err error
	a.Audit, err = fixture.StartAudit(config, a.keep)
	return a, err
}

func (a *audit) keep(revision uint64, object client.Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	namespace := object.GetNamespace()
	switch o := object.(type) {
	case *v1alpha1.WorkerPool:
		a.pools[namespace] = append(a.pools[namespace], version{revision: revision, pool: o})
	case *v1alpha1.WorkerGroup:
		a.groups[namespace] = append(a.groups[namespace], version{revision: revision, group: o})
	}
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
func creates(lives []fixture.Life) map[string]int {
	names := map[types.UID]string{}
	made := map[string]int{}
	for _, l := range lives {
		names[l.UID] = l.String()
		switch {
		case l.Owner == "":
		case l.Kind == "Pod":
			made["a pod of "+names[l.Owner]]++
		default:
			made[l.String()]++
		}
	}
	return made
}

// crowded lists every pool that had more than one pod at a time: a pool has one group, and that one pod. Groups that the user removed by force
// leave theirs behind.
func crowded(lives []fixture.Life, forced map[types.UID]bool) []string {
	pools := map[types.UID]types.UID{}
	for _, l := range lives {
		if l.Kind == "WorkerGroup" && !forced[l.UID] {
			pools[l.UID] = l.Owner
		}
	}
	var found []string
	for i, a := range lives {
		for _, b := range lives[i+1:] {
			if a.Kind == "Pod" && b.Kind == "Pod" && pools[a.Owner] != "" && pools[a.Owner] == pools[b.Owner] && !a.Over(b.Born) {
				found = append(found, fmt.Sprintf("pods %s and %s of one pool lived at the same time", a.Name, b.Name))
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
