package operator

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// watched are the resources that the operator has in its cache.
var watched = []string{"workerpools", "workergroups", "pods", "services", "serviceaccounts", "roles", "rolebindings", "poddisruptionbudgets"}

// inThePast is how long an operator acts on what was.
const inThePast = 1500 * time.Millisecond

// revision is the store's present one.
func (s *scene) revision() (uint64, error) {
	var list v1alpha1.WorkerPoolList
	if err := s.client.List(s.ctx, &list, client.InNamespace(s.namespace)); err != nil {
		return 0, err
	}
	return strconv.ParseUint(list.ResourceVersion, 10, 64)
}

// TestStaleAPIServer is R3: an operator that starts on an API server of yesterday, which still shows the pool's former life, harms nothing of
// its present one. The past is the store's own, at revisions of the first life and its end, chosen by the seed. As with a real
// API server only what fills caches comes from it: reads without a cache ask the store. The test plays the garbage collector for the pod that
// such an operator made for a group of the past.
func TestStaleAPIServer(t *testing.T) {
	t.Parallel()
	s := begin(t)
	first, err := s.revision()
	must(t, err)
	must(t, s.create(2))
	must(t, s.reach())
	must(t, s.delete())
	must(t, s.reach())
	last, err := s.revision()
	must(t, err)
	must(t, s.create(3))
	must(t, s.reach())
	pods, err := s.pods()
	must(t, err)
	group, err := s.group()
	must(t, err)
	// What an operator of the past makes for the former pool goes again; it is none of the present one's.
	present := []types.UID{s.pool.UID, group.UID, pods[0].UID}
	runs, wrong := 4, 0
	if everything {
		runs = 24
	}
	random := rand.New(rand.NewPCG(seed, 3))
	for range runs {
		at := first + random.Uint64N(last-first+1)
		must(t, s.stop())
		s.wire.Past(strconv.FormatUint(at, 10))
		must(t, s.start())
		idle(t, inThePast, inThePast, func(int) {})
		s.wire.Present()
		if err := s.reachCollected(); err != nil {
			t.Fatalf("after revision %d of %d to %d, seed %d: %v", at, first, last, seed, err)
		}
	}
	lives, err := s.lives()
	must(t, err)
	for _, l := range lives {
		if l.Died != 0 && (slices.Contains(present, l.UID) || slices.Contains(present, l.Owner)) {
			wrong++
			t.Errorf("%s of the present life was deleted", l)
		}
	}
	tell(t, "R3", runs, atMost("wrong deletes", float64(wrong), "objects", 0))
	must(t, s.delete())
	must(t, s.reach())
}

// TestCoalescedEvents is R4: the pool is removed by force and made again while the watches stand still, so that its end and its beginning come
// as one change. The test plays the garbage collector for what the first pool leaves.
func TestCoalescedEvents(t *testing.T) {
	t.Parallel()
	failed, runs := 0, 0
	for _, resources := range [][]string{watched, {"workerpools"}, {"workergroups", "pods"}} {
		runs++
		if !t.Run(fmt.Sprint(resources), func(t *testing.T) {
			s := begin(t)
			must(t, s.create(2))
			must(t, s.reach())
			s.wire.Hold(resources...)
			must(t, s.remake())
			s.wire.Release()
			must(t, s.reachCollected())
			must(t, s.losePod())
			must(t, s.reach())
			must(t, s.delete())
			must(t, s.reach())
		}) {
			failed++
		}
	}
	tell(t, "R4", runs, atMost("failed: coalesced events", float64(failed), "runs", 0))
}

// remake removes the pool by force, and all that was its own, and makes another of the same name.
func (s *scene) remake() error {
	old := s.pool.UID
	if err := s.delete(); err != nil {
		return err
	}
	for _, kind := range fixture.Kinds {
		object, err := s.find(kind.Kind)
		if err != nil {
			continue // the operator saw the deletion and was faster
		}
		uid := object.GetUID()
		free := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
		if err := s.client.Delete(s.ctx, object.DeepCopy(), client.Preconditions{UID: &uid}, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
			return err
		}
		if err := s.client.Patch(s.ctx, object.DeepCopy(), free); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	if err := s.wait(limit, "the old pool's end", func() error { return s.isGone(&v1alpha1.WorkerPool{}, s.pool.Name, old) }); err != nil {
		return err
	}
	return s.create(3)
}

// collect plays the garbage collector: it deletes what has an owner that is gone. There may be such a one beside its like of today.
func (s *scene) collect() error {
	for _, kind := range fixture.Kinds[1:] {
		objects, err := s.findAll(kind.Kind)
		if err != nil {
			return err
		}
		for i := range objects {
			by := metav1.GetControllerOf(&objects[i])
			if by == nil || s.isGone(ownerOf(by), by.Name, by.UID) != nil {
				continue // an owner that could not be read is asked for again
			}
			uid := objects[i].GetUID()
			if err := s.client.Delete(s.ctx, &objects[i], client.Preconditions{UID: &uid}); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
				return err
			}
		}
	}
	return nil
}

func ownerOf(by *metav1.OwnerReference) client.Object {
	if by.Kind == "WorkerGroup" {
		return &v1alpha1.WorkerGroup{}
	}
	return &v1alpha1.WorkerPool{}
}

// reachCollected is reach in a cluster with a garbage collector.
func (s *scene) reachCollected() error {
	if err := s.wait(limit, "as the user asked", func() error {
		if err := s.collect(); err != nil {
			return err
		}
		return s.asAsked()
	}); err != nil {
		return err
	}
	return s.reach()
}

// TestExpiredWatches is R4: every watch ends with 410 Gone right after each thing that the user does, and the operator lists anew.
func TestExpiredWatches(t *testing.T) {
	t.Parallel()
	s := begin(t)
	ended := 0
	for _, act := range []func() error{func() error { return s.create(2) }, func() error { return s.scale(4) }, func() error { return s.image("2") }, s.losePod, s.delete} {
		s.wire.Hold(watched...)
		must(t, act())
		ended += s.wire.Expire(watched...)
		s.wire.Release()
		must(t, s.reach())
	}
	if ended < len(watched) {
		t.Fatalf("void: %d watches ended", ended)
	}
	lives, err := s.lives()
	must(t, err)
	_, _, _, lines := excess(lives)
	for _, line := range lines {
		t.Error(line)
	}
	failed := 0
	if t.Failed() {
		failed = 1
	}
	tell(t, "R4", ended, atMost("failed: relist after 410", float64(failed), "runs", 0))
}
