package operator

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// TestPodKeptByAFinalizer has somebody's finalizer keep a pod whose end the kubelet has told. Nothing of it runs, so that its successor serves; but
// it is there, so that the pool does not go before it, and says what it waits for. It is also the long form of a moment that each end of a pod
// has: the API server takes the grace away in one write and the object in the next.
func TestPodKeptByAFinalizer(t *testing.T) {
	t.Parallel()
	const finalizer = "test.snakepit.dev/kept"
	s := begin(t)
	must(t, s.create(2))
	must(t, s.reach())
	pods, err := s.pods()
	must(t, err)
	kept := &pods[0]
	patch := func(finalizers string) error {
		return s.client.Patch(s.ctx, kept, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":`+finalizers+`}}`)))
	}
	must(t, patch(`["`+finalizer+`"]`))
	must(t, s.client.Delete(s.ctx, kept))
	must(t, s.wait(limit, "a successor serves", func() error {
		group, err := s.group()
		if err == nil && (group.Spec.PodUID == kept.UID || group.Spec.PodUID == "") {
			err = fmt.Errorf("group %s names pod %s", group.Name, group.Spec.PodUID)
		}
		if err != nil {
			return err
		}
		return s.ready()
	}))

	must(t, s.delete())
	must(t, s.wait(limit, "the pool says what it waits for", func() error {
		pool := &v1alpha1.WorkerPool{}
		if err := s.client.Get(s.ctx, client.ObjectKeyFromObject(s.pool), pool); err != nil {
			return err
		}
		c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Status == "True" || !strings.Contains(c.Message, kept.Name) {
			return fmt.Errorf("%s", fixture.Conditions(pool.Status.Conditions))
		}
		return nil
	}))
	if err := s.isGone(&corev1.Pod{}, kept.Name, kept.UID); err == nil {
		t.Fatal("the pod went without its finalizer")
	}
	must(t, patch("null"))
	must(t, s.reach())

	lives, err := s.lives()
	must(t, err)
	if made := fixture.Owned(lives, "Pod"); len(made) != 2 || fixture.Peak(made) != 1 {
		t.Errorf("made: %v, %d at a time; needed are 2, one after the other", made, fixture.Peak(made))
	}
	for _, line := range fixture.Outlived(lives) {
		t.Error(line)
	}
}
