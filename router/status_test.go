package main

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/upstream"
)

// maxMessage is what the group's status keeps of a message, in bytes.
const maxMessage = 256

func TestAdapterLoaded(t *testing.T) {
	place := "/usr/lib/python3/site-packages/company/models/recommender/adapter.py:128"
	for _, c := range []struct {
		name   string
		state  *bridgev1.AdapterState
		status metav1.ConditionStatus
		reason string
		says   []string
	}{
		{"nothing yet", nil, metav1.ConditionUnknown, v1alpha1.ReasonAdapterLoading, nil},
		{"loading", &bridgev1.AdapterState{Phase: bridgev1.AdapterPhase_ADAPTER_PHASE_LOADING}, metav1.ConditionUnknown, v1alpha1.ReasonAdapterLoading, nil},
		{"loaded", &bridgev1.AdapterState{Phase: bridgev1.AdapterPhase_ADAPTER_PHASE_LOADED}, metav1.ConditionTrue, v1alpha1.ReasonAdapterLoaded, nil},
		{"fork is unsafe", &bridgev1.AdapterState{Phase: bridgev1.AdapterPhase_ADAPTER_PHASE_LOADED, ForkUnsafe: "2 threads live"},
			metav1.ConditionTrue, v1alpha1.ReasonForkUnsafe, []string{"workers are spawned", "2 threads live"}},
		{"failed", &bridgev1.AdapterState{Phase: bridgev1.AdapterPhase_ADAPTER_PHASE_FAILED, ErrorType: "ImportError", ErrorPlace: "app.py:3", ErrorMessage: "secret"},
			metav1.ConditionFalse, v1alpha1.ReasonAdapterFailed, []string{"worker pod-0: ImportError at app.py:3 (kubectl logs pod-0 -c worker)"}},
		{"not thread-safe", &bridgev1.AdapterState{Phase: bridgev1.AdapterPhase_ADAPTER_PHASE_FAILED, ErrorType: "snakepit.errors.ThreadSafetyNotDeclared", ErrorPlace: place},
			metav1.ConditionFalse, v1alpha1.ReasonThreadSafetyNotDeclared, []string{place, "thread_safe = True", "or remove profile and slots"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := adapterLoaded(upstream.Facts{Adapter: c.state}, identity{name: "pod-0"}, 3)
			if got.Status != c.status || got.Reason != c.reason || got.ObservedGeneration != 3 {
				t.Errorf("%+v, want %s/%s of generation 3", got, c.status, c.reason)
			}
			for _, want := range c.says {
				if !strings.Contains(got.Message, want) {
					t.Errorf("%q does not say %q", got.Message, want)
				}
			}
			if strings.Contains(got.Message, "secret") || len(got.Message) > maxMessage {
				t.Errorf("%d bytes: %q", len(got.Message), got.Message)
			}
		})
	}
}

func TestWorkersReady(t *testing.T) {
	slots := []upstream.SlotFacts{{Slot: 0, State: "Ready", LastError: "OLD"}, {Slot: 1, State: "Failed", LastError: "STUCK signal 9"}, {Slot: 2, State: "Starting"}}
	for _, c := range []struct {
		name   string
		facts  func(*upstream.Facts)
		status metav1.ConditionStatus
		reason string
		says   string
	}{
		{"ready", func(f *upstream.Facts) { f.Facts.Ready = 3 }, metav1.ConditionTrue, v1alpha1.ReasonWorkersReady, "3 of 3 workers ready"},
		{"none wanted", func(f *upstream.Facts) { f.Wanted = 0 }, metav1.ConditionTrue, v1alpha1.ReasonScaledToZero, "no worker is wanted"},
		{"starting", func(f *upstream.Facts) { f.Slots = slots[2:] }, metav1.ConditionFalse, v1alpha1.ReasonWorkersStarting, "1 of 3 workers ready"},
		{"failing", func(f *upstream.Facts) { f.Failing = 1 }, metav1.ConditionFalse, v1alpha1.ReasonWorkersFailing,
			"1 of 3 workers ready: worker pod-0/1: STUCK signal 9 (kubectl logs pod-0 -c worker)"},
		{"looping", func(f *upstream.Facts) { f.CrashLooping, f.Facts.Ready = true, 3 }, metav1.ConditionFalse, v1alpha1.ReasonCrashLooping,
			"workers die again and again: worker pod-0/1: STUCK signal 9 (kubectl logs pod-0 -c worker)"},
		{"looping, all are back", func(f *upstream.Facts) { f.CrashLooping, f.Facts.Ready, f.Slots = true, 3, slots[:1] }, metav1.ConditionFalse, v1alpha1.ReasonCrashLooping, "worker pod-0/0: OLD"},
		{"draining", func(f *upstream.Facts) { f.Draining, f.CrashLooping = true, true }, metav1.ConditionFalse, v1alpha1.ReasonDraining, "no new sessions"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := upstream.Facts{Slots: slots}
			f.Wanted, f.Facts.Ready = 3, 1
			c.facts(&f)
			got := workersReady(f, identity{name: "pod-0"}, 3)
			if got.Status != c.status || got.Reason != c.reason || !strings.Contains(got.Message, c.says) || len(got.Message) > maxMessage {
				t.Errorf("%+v, want %s/%s: %s", got, c.status, c.reason, c.says)
			}
		})
	}
}

// What exceptions said is shown only where the pool allows it, and the command stays readable behind it.
func TestExposedMessages(t *testing.T) {
	said := strings.Repeat("secret ", 40)
	f := upstream.Facts{
		Failing: 1,
		Slots: []upstream.SlotFacts{{Slot: 3, State: "Failed", Restarts: 2, LastError: "EXITED exit code 1",
			LastExit: upstream.Exit{Cause: "EXITED", Code: 1, Output: said, At: time.Unix(1000, 5)}}, {Slot: 4, State: "Ready", Nonce: 7}},
		Adapter: &bridgev1.AdapterState{Phase: bridgev1.AdapterPhase_ADAPTER_PHASE_FAILED, ErrorType: "ValueError", ErrorPlace: "app.py:3", ErrorMessage: said},
	}
	f.Wanted = 2
	for _, expose := range []bool{false, true} {
		got := statusOf(f, identity{"uid", "pod-0", expose}, "r", 3)
		for _, c := range got.Conditions {
			if strings.Contains(c.Message, "secret") != expose || !strings.HasSuffix(c.Message, "(kubectl logs pod-0 -c worker)") || len(c.Message) > maxMessage {
				t.Errorf("exposed %v: %d bytes: %s", expose, len(c.Message), c.Message)
			}
		}
		exit := got.Router.Workers[0].LastExit
		if exit.Reason != v1alpha1.ExitExited || exit.ExitCode != 1 || exit.At.Unix() != 1000 || (exit.LastOutput == said) != expose {
			t.Errorf("exposed %v: %+v", expose, exit)
		}
		if got.Router.Workers[1].LastExit != nil || got.Router.RecycleCompleted != "r" {
			t.Errorf("%+v", got.Router)
		}
	}
}
