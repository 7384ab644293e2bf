package main

import (
	"strings"
	"testing"

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
			got := adapterLoaded(upstream.Facts{Adapter: c.state}, "pod-0", 3)
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
