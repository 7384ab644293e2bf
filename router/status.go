package main

import (
	"fmt"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/membership"
	"github.com/snakepit-k8s/snakepit/router/upstream"
)

// statusOf words what the router sees for the group's status.
func statusOf(f upstream.Facts, podUID, podName string, generation int64) membership.Facts {
	status := v1alpha1.RouterStatus{
		PodUID: types.UID(podUID), Version: version, ObservedGeneration: generation,
		ReadyWorkers: int32(f.Facts.Ready), BusyWorkers: int32(f.Busy), Sessions: int32(f.Sessions),
		Drained: f.Drained, SessionsLost: int64(f.SessionsLost),
	}
	for _, s := range f.Slots {
		w := v1alpha1.WorkerStatus{
			Slot: int32(s.Slot), State: v1alpha1.WorkerState(s.State), Restarts: int32(s.Restarts), LastError: s.LastError,
		}
		if s.Nonce != 0 {
			w.Incarnation = fmt.Sprintf("%016x", s.Nonce)
		}
		status.Workers = append(status.Workers, w)
	}
	return membership.Facts{Router: status, Conditions: []metav1.Condition{
		workersReady(f, podName, generation), adapterLoaded(f, podName, generation),
	}}
}

func condition(kind string, generation int64, ok metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: ok, ObservedGeneration: generation, Reason: reason, Message: message}
}

func workersReady(f upstream.Facts, podName string, generation int64) metav1.Condition {
	is := func(ok metav1.ConditionStatus, reason, message string) metav1.Condition {
		return condition(v1alpha1.ConditionWorkersReady, generation, ok, reason, message)
	}
	ready := strconv.Itoa(f.Facts.Ready) + " of " + strconv.Itoa(f.Wanted) + " workers ready"
	switch {
	case f.Draining:
		return is(metav1.ConditionFalse, v1alpha1.ReasonDraining, "the group drains; no new sessions")
	case f.Wanted == 0:
		return is(metav1.ConditionTrue, v1alpha1.ReasonScaledToZero, "no worker is wanted")
	case f.Facts.Ready >= f.Wanted:
		return is(metav1.ConditionTrue, v1alpha1.ReasonWorkersReady, ready)
	case f.Failing > 0:
		for _, s := range f.Slots {
			if s.LastError != "" && s.State != string(v1alpha1.WorkerReady) {
				return is(metav1.ConditionFalse, v1alpha1.ReasonWorkersFailing, fmt.Sprintf(
					"%s: worker %s/%d: %s (%s)", ready, podName, s.Slot, s.LastError, logsOf(podName)))
			}
		}
	}
	return is(metav1.ConditionFalse, v1alpha1.ReasonWorkersStarting, ready)
}

func adapterLoaded(f upstream.Facts, podName string, generation int64) metav1.Condition {
	is := func(ok metav1.ConditionStatus, reason, message string) metav1.Condition {
		return condition(v1alpha1.ConditionAdapterLoaded, generation, ok, reason, message)
	}
	switch f.Adapter.GetPhase() {
	case bridgev1.AdapterPhase_ADAPTER_PHASE_LOADED:
		if why := f.Adapter.GetForkUnsafe(); why != "" {
			return is(metav1.ConditionTrue, v1alpha1.ReasonForkUnsafe, "workers are spawned, because forking is not safe: "+why)
		}
		return is(metav1.ConditionTrue, v1alpha1.ReasonAdapterLoaded, "the adapter was imported")
	case bridgev1.AdapterPhase_ADAPTER_PHASE_FAILED:
		return adapterFailed(f.Adapter, podName, is)
	}
	return is(metav1.ConditionUnknown, v1alpha1.ReasonAdapterLoading, "the adapter is being imported")
}

// adapterFailed names the exception's type and place, and what to do where that is known.
func adapterFailed(a *bridgev1.AdapterState, podName string, is func(metav1.ConditionStatus, string, string) metav1.Condition) metav1.Condition {
	// The type comes with its module.
	if kind := a.GetErrorType(); kind[strings.LastIndexByte(kind, '.')+1:] == v1alpha1.ReasonThreadSafetyNotDeclared {
		return is(metav1.ConditionFalse, v1alpha1.ReasonThreadSafetyNotDeclared, fmt.Sprintf(
			"the adapter%s does not declare thread safety, which slots needs: set thread_safe = True in it if its methods may run at the same time, or remove profile and slots", at(a.GetErrorPlace())))
	}
	return is(metav1.ConditionFalse, v1alpha1.ReasonAdapterFailed, fmt.Sprintf(
		"worker %s: %s%s (%s)", podName, a.GetErrorType(), at(a.GetErrorPlace()), logsOf(podName)))
}

func at(place string) string {
	if place == "" {
		return ""
	}
	return " at " + place
}

// logsOf is the command that shows the rest.
func logsOf(podName string) string {
	return "kubectl logs " + podName + " -c " + v1alpha1.WorkerContainer
}
