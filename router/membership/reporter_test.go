package membership

import (
	"net/http"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// writes counts the applies that the stand-in saw.
func (f *clusterFixture) writes() int { return len(f.api.seen(http.MethodPatch)) }

// reporting starts a source whose group exists and is watched.
func reporting(t *testing.T) (*clusterFixture, func()) {
	t.Helper()
	f := newCluster(t)
	group := liveGroup("uid-1", 1)
	group.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionUnknown, Reason: "Pending"}}
	f.api.set(group)
	stop := f.run(t)
	eventually(t, "adoption", func() bool { return f.adopter.count() == 1 && f.api.watches() == 1 })
	return f, stop
}

func TestStatusIsAppliedAsTheRouter(t *testing.T) {
	f, _ := reporting(t)
	f.source.Report(facts(1, 123, 4))
	eventually(t, "first write, at once", func() bool { return f.writes() == 1 })
	w := f.api.seen(http.MethodPatch)[0]
	if w.path != groupsPath+"/"+testGroup+"/status" || w.contentType != "application/apply-patch+yaml" {
		t.Errorf("%s as %s", w.path, w.contentType)
	}
	if w.query["fieldManager"][0] != v1alpha1.FieldManagerRouter || w.query["force"][0] != "true" {
		t.Errorf("query %v", w.query)
	}
	if len(w.body) != 4 || w.body["kind"] != "WorkerGroup" || w.body["apiVersion"] != "snakepit.dev/v1alpha1" {
		t.Errorf("body %v", w.body)
	}
	if metadata := w.body["metadata"].(map[string]any); len(metadata) != 3 || metadata["uid"] != "uid-1" || metadata["name"] != testGroup {
		t.Errorf("metadata %v", metadata)
	}
	written := w.body["status"].(map[string]any)
	router := written["router"].(map[string]any)
	if len(written) != 2 || router["podUID"] != "pod-1" || router["busyWorkers"] != float64(120) || router["sessions"] != float64(4) {
		t.Errorf("status %v", written)
	}
	eventually(t, "the answer is taken", func() bool { return f.api.stored().Status.Router != nil })
	if kept := f.api.stored().Status.Conditions; len(kept) != 2 {
		t.Errorf("conditions %v", kept)
	}
}

func TestWritesAreRareAndOnlyForChanges(t *testing.T) {
	f, _ := reporting(t)
	f.source.Report(facts(1, 1, 1))
	eventually(t, "first write", func() bool { return f.writes() == 1 })
	// A storm from many goroutines, all within the interval.
	var storm sync.WaitGroup
	for worker := range int32(8) {
		storm.Go(func() {
			for i := range int32(100) {
				f.source.Report(facts(i%3, worker, i))
			}
		})
	}
	storm.Wait()
	f.source.Report(facts(2, 5, 5))
	eventually(t, "the reporter waits", f.clock.HasWaiters)
	f.clock.Step(factsInterval - time.Millisecond)
	if f.writes() != 1 {
		t.Fatalf("%d writes within the interval", f.writes())
	}
	f.until(t, "second write", func() bool { return f.writes() == 2 })
	if got := f.api.stored().Status.Router; got.ReadyWorkers != 2 || got.BusyWorkers != 5 || got.Sessions != 5 {
		t.Errorf("written %+v", got)
	}
	// Load alone waits for its minute; the same again is never written.
	f.source.Report(facts(2, 9, 5))
	for range 50 {
		f.clock.Step(time.Second)
	}
	if f.writes() != 2 {
		t.Fatal("load is written within its minute")
	}
	f.until(t, "third write", func() bool { return f.writes() == 3 })
	f.source.Report(facts(2, 9, 5))
	for range 200 {
		f.clock.Step(time.Second)
	}
	f.source.Report(facts(1, 9, 5))
	f.until(t, "a real change", func() bool { return f.api.stored().Status.Router.ReadyWorkers == 1 })
	if f.writes() != 4 {
		t.Error("written though nothing changed")
	}
}

func TestRefusedWritesAreRetriedAndToldOnce(t *testing.T) {
	f, _ := reporting(t)
	f.api.refuseWith(func(r *http.Request) *metav1.Status {
		if r.Method == http.MethodPatch {
			return status(403, metav1.StatusReasonForbidden)
		}
		return nil
	})
	f.source.Report(facts(1, 0, 0))
	f.until(t, "four attempts", func() bool { return f.writes() >= 4 })
	if f.log.containing("may not patch the status") != 1 {
		t.Errorf("log: %v", f.log.all)
	}
	f.api.refuseWith(nil)
	f.until(t, "the write", func() bool { return f.api.stored().Status.Router != nil })
	eventually(t, "the recovery is told", func() bool { return f.log.containing("status is written again") == 1 })
}

// A write that failed may have arrived: going back to the old facts must be written too.
func TestAfterAFailureTheOldFactsAreWrittenAgain(t *testing.T) {
	f, _ := reporting(t)
	f.source.Report(facts(1, 0, 0))
	eventually(t, "first write", func() bool { return f.writes() == 1 })
	f.api.refuseWith(func(r *http.Request) *metav1.Status {
		if r.Method == http.MethodPatch {
			return status(500, metav1.StatusReasonInternalError)
		}
		return nil
	})
	f.source.Report(facts(2, 0, 0))
	f.until(t, "the failed write", func() bool { return f.writes() >= 2 })
	f.source.Report(facts(1, 0, 0))
	f.api.refuseWith(nil)
	before := f.writes()
	f.until(t, "the old facts again", func() bool { return f.writes() > before && f.api.stored().Status.Router.ReadyWorkers == 1 })
}

func TestGoneGroupIsGivenUpInSilence(t *testing.T) {
	terminating := metav1.StatusCause{Type: corev1.NamespaceTerminatingCause}
	for name, end := range map[string]func(*standIn){
		"deleted":  func(s *standIn) { s.set(nil) },
		"namesake": func(s *standIn) { s.set(nil); s.set(liveGroup("uid-2", 1)) },
		"namespace": func(s *standIn) {
			s.refuseWith(func(*http.Request) *metav1.Status { return status(403, metav1.StatusReasonForbidden, terminating) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, stop := reporting(t)
			f.source.Report(facts(1, 0, 0))
			eventually(t, "first write", func() bool { return f.writes() == 1 })
			end(f.api)
			f.source.Report(facts(2, 0, 0))
			f.until(t, "the refused write and the end", func() bool {
				return f.writes() == 2 && f.log.containing("no status is written any more") == 1
			})
			for i := range int32(100) {
				f.source.Report(facts(i%3, 0, 0))
				f.clock.Step(time.Minute)
			}
			// A reporter that had not given up would write now at the latest.
			stop()
			if f.writes() != 2 {
				t.Errorf("%d more writes", f.writes()-2)
			}
			if f.log.containing("status is not written") != 0 {
				t.Errorf("log: %v", f.log.all)
			}
		})
	}
}

func TestConflictThatPassesIsRetried(t *testing.T) {
	f, _ := reporting(t)
	f.api.refuseWith(func(r *http.Request) *metav1.Status {
		if r.Method == http.MethodPatch {
			return status(409, metav1.StatusReasonConflict)
		}
		return nil
	})
	f.source.Report(facts(1, 0, 0))
	f.until(t, "two attempts", func() bool { return f.writes() >= 2 })
	f.api.refuseWith(nil)
	f.until(t, "the write", func() bool { return f.api.stored().Status.Router != nil })
}

func TestOnlyTheGroupsOwnRouterWrites(t *testing.T) {
	f, _ := reporting(t)
	foreign := facts(1, 0, 0)
	foreign.Router.PodUID = "pod-0"
	f.source.Report(foreign)
	next := liveGroup("uid-1", 2)
	next.Spec.PodUID = "pod-2"
	f.api.set(next)
	eventually(t, "adoption", func() bool { return f.adopter.count() == 2 })
	f.source.Report(facts(1, 0, 0))
	for range 20 {
		f.clock.Step(time.Second)
	}
	own := liveGroup("uid-1", 3)
	f.api.set(own)
	f.until(t, "the own router's write", func() bool { return f.writes() == 1 })
	if f.api.stored().Status.Router.PodUID != "pod-1" {
		t.Errorf("written by %s", f.api.stored().Status.Router.PodUID)
	}
}

// The router of an earlier pod may have written last; nobody but this router can put it right.
func TestForeignWriteIsPutRight(t *testing.T) {
	f, _ := reporting(t)
	f.source.Report(facts(1, 0, 0))
	eventually(t, "first write", func() bool { return f.writes() == 1 && f.api.stored().Status.Router != nil })
	other := f.api.stored()
	other.Status.Router.PodUID = "pod-0"
	f.api.set(other)
	f.until(t, "the second write", func() bool { return f.writes() == 2 })
	if f.api.stored().Status.Router.PodUID != "pod-1" {
		t.Error("the foreign word stands")
	}
	// What the operator writes is none of the router's business.
	operators := f.api.stored()
	operators.Status.PodName = "pod"
	operators.Status.ObservedGeneration = 9
	f.api.set(operators)
	for range 20 {
		f.clock.Step(time.Second)
	}
	if f.writes() != 2 {
		t.Errorf("%d writes", f.writes())
	}
}

func TestTransitionTimeSurvivesTheRoutersRestart(t *testing.T) {
	f := newCluster(t)
	old := metav1.NewTime(time.Unix(77, 0))
	group := liveGroup("uid-1", 1)
	group.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionWorkersReady, Status: metav1.ConditionFalse, Reason: "WorkersReady", LastTransitionTime: old}}
	f.api.set(group)
	f.source.Report(facts(1, 0, 0))
	f.run(t)
	eventually(t, "first write", func() bool { return f.api.stored().Status.Router != nil })
	if got := f.api.stored().Status.Conditions[0].LastTransitionTime; !got.Equal(&old) {
		t.Errorf("the time became %v", got)
	}
}

func TestLastWordIsWrittenWhenTheRouterEnds(t *testing.T) {
	f, stop := reporting(t)
	f.source.Report(facts(1, 0, 0))
	eventually(t, "first write", func() bool { return f.writes() == 1 })
	drained := facts(1, 0, 0)
	drained.Router.Drained = true
	f.source.Report(drained)
	stop()
	if f.writes() != 2 || !f.api.stored().Status.Router.Drained {
		t.Errorf("%d writes, %+v", f.writes(), f.api.stored().Status.Router)
	}
}
