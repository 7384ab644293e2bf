package workergroup

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/tools/events"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

func TestAnnounce(t *testing.T) {
	recorder := events.NewFakeRecorder(10)
	r := &Reconciler{Events: recorder}
	said := func(change func(*v1alpha1.RouterStatus)) []string {
		group := newGroup()
		group.Status.PodName = "pod-0"
		group.Status.Router.Workers = []v1alpha1.WorkerStatus{{Slot: 0, State: v1alpha1.WorkerReady}, {Slot: 1, State: v1alpha1.WorkerReady}}
		change(group.Status.Router)
		r.announce(group)
		var all []string
		for len(recorder.Events) > 0 {
			all = append(all, strings.Join(strings.Fields(<-recorder.Events)[:2], " "))
		}
		return all
	}
	for i, step := range []struct {
		change func(*v1alpha1.RouterStatus)
		want   []string
	}{
		{func(*v1alpha1.RouterStatus) {}, nil}, // the first look is where comparing begins
		{func(*v1alpha1.RouterStatus) {}, nil},
		{func(s *v1alpha1.RouterStatus) { s.ReadyWorkers, s.Workers[1].Restarts, s.SessionsLost = 1, 1, 3 }, []string{"Warning WorkerCrashed", "Warning SessionLost"}},
		{func(s *v1alpha1.RouterStatus) { s.Workers[1].Restarts, s.SessionsLost = 1, 3 }, []string{"Normal WorkerStarted"}},
		{func(s *v1alpha1.RouterStatus) {
			s.Workers[1].Restarts, s.SessionsLost, s.RecycleCompleted = 1, 3, "leak: 1"
		}, []string{"Normal WorkersRecycled"}},
		{func(s *v1alpha1.RouterStatus) {
			s.Workers[1].Restarts, s.SessionsLost, s.RecycleCompleted = 1, 3, "leak: 1"
		}, nil},
		{func(s *v1alpha1.RouterStatus) { s.PodUID = "q"; s.SessionsLost = 99 }, nil}, // another pod's router: not the group's
		{func(s *v1alpha1.RouterStatus) { s.Workers[1].Restarts, s.SessionsLost = 1, 3 }, nil},
	} {
		if got := said(step.change); !slices.Equal(got, step.want) {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
}
