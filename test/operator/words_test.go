package operator

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/wire"
)

// hearsay is a Ready pool whose every version is recorded, and whose group's controller can be kept from saying anything new: the group's last
// status stands, while its spec, its pod and its router go on.
type hearsay struct {
	*scene
	recorder *fixture.Recorder
}

// groupsWord is the write in which the group's controller says what it sees.
var groupsWord = wire.Call{Verb: "apply", Resource: "workergroups/status"}

func hear(t *testing.T) *hearsay {
	t.Helper()
	s, err := open(t.Context())
	must(t, err)
	h := &hearsay{scene: s}
	h.recorder, err = fixture.StartRecorder(server.Config, s.namespace)
	must(t, err)
	t.Cleanup(h.recorder.Stop)
	t.Cleanup(func() { must(t, s.stop()) })
	must(t, s.start())
	must(t, s.create(2))
	must(t, s.reach())
	return h
}

// heard waits until the pool has looked at its group as it is now: it tells how busy the router says its workers are.
func (h *hearsay) heard(busy int32) error {
	group, err := h.group()
	if err != nil {
		return err
	}
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"status":{"router":{"busyWorkers":%d}}}`, busy))
	if err := h.client.Status().Patch(h.ctx, group, patch); err != nil {
		return err
	}
	return h.wait(limit, "the pool has looked at its group", func() error {
		pool := &v1alpha1.WorkerPool{}
		if err := h.client.Get(h.ctx, client.ObjectKeyFromObject(h.pool), pool); err != nil || pool.Status.BusyWorkers == busy {
			return err
		}
		return fmt.Errorf("%d busy: %s", pool.Status.BusyWorkers, fixture.Conditions(pool.Status.Conditions))
	})
}

// heals lets the group's controller speak again, and checks every version of the pool.
func (h *hearsay) heals(t *testing.T) {
	t.Helper()
	if h.wire.Hits() == 0 {
		t.Fatal("void: the group's controller had nothing to say")
	}
	h.wire.Fail()
	must(t, h.reach())
	if err := h.recorder.Lies(); err != nil {
		t.Errorf("what was said and was not so:\n%v", err)
	}
	must(t, h.delete())
	must(t, h.reach())
}

// The group's controller last spoke before the user's change. The router has followed, and still the pool is not Current before the controller has
// looked at the change.
func TestWordOfAnEarlierGeneration(t *testing.T) {
	t.Parallel()
	h := hear(t)
	h.wire.Fail(groupsWord)
	must(t, h.change(`{"spec":{"queue":{"maxLength":77}}}`))
	must(t, h.wait(limit, "the router follows", func() error {
		group, err := h.group()
		if err == nil && (group.Spec.Queue.MaxLength != 77 || group.Status.Router.ObservedGeneration != group.Generation) {
			err = fmt.Errorf("generation %d, queue %d, the router has seen %d", group.Generation, group.Spec.Queue.MaxLength, group.Status.Router.ObservedGeneration)
		}
		return err
	}))
	must(t, h.heard(1))
	if err := h.ready(); err == nil || !strings.Contains(err.Error(), v1alpha1.ConditionReconciling) {
		t.Errorf("the pool is not on its way: %v", err)
	}
	must(t, h.heard(0))
	h.heals(t)
}

// The group's controller last spoke of a pod that is lost. Its successor runs, its router reports ready workers, and still the pool is not available
// before the controller has spoken of this pod.
func TestWordAboutAnotherPod(t *testing.T) {
	t.Parallel()
	h := hear(t)
	lost, err := h.group()
	must(t, err)
	h.wire.Fail(groupsWord)
	must(t, h.losePod())
	must(t, h.wait(limit, "the successor's router reports", func() error {
		group, err := h.group()
		if err == nil && (group.Spec.PodUID == lost.Spec.PodUID || group.Status.Router.PodUID != group.Spec.PodUID || group.Status.Router.ReadyWorkers != 2) {
			err = fmt.Errorf("group names %s, router %+v", group.Spec.PodUID, group.Status.Router)
		}
		return err
	}))
	must(t, h.wait(limit, "the pool says that it is not Ready", func() error {
		pool := &v1alpha1.WorkerPool{}
		if err := h.client.Get(h.ctx, client.ObjectKeyFromObject(h.pool), pool); err != nil {
			return err
		}
		c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReady)
		if c.Status != metav1.ConditionFalse || !strings.Contains(c.Message, "another pod than the one that was ready") {
			return fmt.Errorf("conditions %s", fixture.Conditions(pool.Status.Conditions))
		}
		return nil
	}))
	for _, kind := range []string{v1alpha1.ConditionWorkersAvailable, v1alpha1.ConditionRouterReady} {
		if said := h.turns(kind); said != 1 {
			t.Errorf("%s turned True %d times before anybody spoke of the second pod: %q", kind, said, h.recorder.Said(h.pool.Name, kind))
		}
	}
	var pods corev1.PodList
	must(t, h.client.List(h.ctx, &pods, client.InNamespace(h.namespace)))
	if group, err := h.group(); err != nil || len(pods.Items) != 1 || group.Status.PodName == pods.Items[0].Name {
		t.Fatalf("void: the group's controller spoke of the present pod: %v", err)
	}
	h.heals(t)
}

// turns is how often the condition became True, over all versions of the pool.
func (h *hearsay) turns(kind string) (n int) {
	was := false
	for _, said := range h.recorder.Said(h.pool.Name, kind) {
		is := strings.HasPrefix(said, string(metav1.ConditionTrue)+"/")
		if is && !was {
			n++
		}
		was = is
	}
	return n
}
