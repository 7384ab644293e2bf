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

// A death is an Event of its own reason, with the worker, what to do and where to read the rest.
func TestAnnounceExit(t *testing.T) {
	for reason, want := range map[v1alpha1.ExitReason]string{
		"":                        "Warning WorkerCrashed worker pod-0/3 ended and was replaced: X signal 9 (kubectl logs pod-0 -c worker)",
		v1alpha1.ExitKilled:       "Warning WorkerCrashed worker pod-0/3 ended and was replaced: X signal 9 (kubectl logs pod-0 -c worker)",
		v1alpha1.ExitStuck:        "Warning WorkerStuck worker pod-0/3 ended and was replaced: X signal 9; it gave no sign of life and used no CPU time; its stacks are in the log (kubectl logs pod-0 -c worker)",
		v1alpha1.ExitCallTimeout:  "Warning WorkerTimedOut worker pod-0/3 ended and was replaced: X signal 9; a call ran past calls.timeout",
		v1alpha1.ExitMemoryGuard:  "Warning WorkerOutOfMemory worker pod-0/3 ended and was replaced: X signal 9; the container was near its memory limit: raise the limit",
		v1alpha1.ExitContainerOOM: "Warning WorkerOutOfMemory worker pod-0/3 ended and was replaced: X signal 9; the container reached its memory limit: raise the limit",
	} {
		recorder := events.NewFakeRecorder(2)
		r := &Reconciler{Events: recorder}
		group := newGroup()
		group.Status.PodName = "pod-0"
		w := v1alpha1.WorkerStatus{Slot: 3, LastError: "X signal 9"}
		if reason != "" {
			w.LastExit = &v1alpha1.WorkerExit{Reason: reason, Signal: 9}
		}
		r.announceExit(group, w, 1)
		if got := <-recorder.Events; !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s\nwant %s", reason, got, want)
		}
		r.announceExit(group, w, 3)
		if got := <-recorder.Events; !strings.Contains(got, "3 times; the last: X signal 9") {
			t.Errorf("%s: %s", reason, got)
		}
	}
}
