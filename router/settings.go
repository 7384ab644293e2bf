package main

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/dispatch"
	"github.com/snakepit-k8s/snakepit/router/membership"
	"github.com/snakepit-k8s/snakepit/router/upstream"
)

// stopGrace is the time between SIGTERM and SIGKILL of a worker that is no longer wanted: its sessions have ended by then.
const stopGrace = 5 * time.Second

// settingsOf translates a spec. alone: there is no group beside this router, so that it is the only one.
func settingsOf(spec v1alpha1.WorkerGroupSpec, podUID string, alone bool) upstream.Settings {
	membership.Default(&spec)
	own := string(spec.PodUID) == podUID
	s := upstream.Settings{
		Dispatch: dispatch.Settings{
			Affinity:     affinityOf(spec.Sessions.Affinity),
			Implicit:     spec.Sessions.Creation == v1alpha1.SessionCreationImplicit,
			MaxPerWorker: int(spec.Sessions.MaxPerWorker),
			IdleTimeout:  duration(spec.Sessions.IdleTimeout),
			MaxLength:    int(spec.Queue.MaxLength),
			PerSession:   int(spec.Queue.PerSession),
			QueueTimeout: duration(spec.Queue.Timeout),
			DrainTimeout: duration(spec.Drain.Timeout),
		},
		CallTimeout:       duration(spec.Calls.Timeout),
		KillAfter:         duration(spec.Calls.KillAfter),
		StreamTimeout:     duration(spec.Calls.StreamTimeout),
		StreamIdleTimeout: duration(spec.Calls.StreamIdleTimeout),
		StartupTimeout:    duration(spec.Startup.Timeout),
		StopGrace:         stopGrace,
		Shares:            sharesOf(spec.Queue.Shares),
		BatchSize:         int(spec.Startup.BatchSize),
		BatchInterval:     duration(spec.Startup.BatchInterval),
		Heartbeat: upstream.Heartbeat{
			Interval: duration(spec.Heartbeat.Interval), Timeout: duration(spec.Heartbeat.Timeout), Missed: int(spec.Heartbeat.Missed),
		},
		Backoff:    duration(spec.Crash.Backoff),
		MaxBackoff: duration(spec.Crash.MaxBackoff),
		Crash: upstream.Crash{
			MaxRestarts: int(spec.Crash.MaxRestarts), Window: duration(spec.Crash.Window), Quarantine: duration(spec.Crash.Quarantine),
			ExposeMessages: spec.Crash.ExposeMessages,
		},
		MaxMessage:  int(spec.Calls.MaxMessageBytes),
		Wanted:      int(spec.Workers),
		StartMethod: methodOf(spec.Startup.Method),
		Sole:        alone || own,
		Standby:     !alone && spec.PodUID != "" && !own,
	}
	if spec.DrainRequest != nil {
		s.DrainBy = spec.DrainRequest.Deadline.Time
	}
	return s
}

// duration of a setting; 0 for one that has no default and is unset.
func duration(d *metav1.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return d.Duration
}

func affinityOf(a v1alpha1.Affinity) dispatch.Affinity {
	switch a {
	case v1alpha1.AffinityHint:
		return dispatch.Hint
	case v1alpha1.AffinityStrictFailFast:
		return dispatch.StrictFailFast
	}
	return dispatch.StrictQueue
}

func methodOf(m v1alpha1.StartMethod) bridgev1.StartMethod {
	switch m {
	case v1alpha1.StartMethodFork:
		return bridgev1.StartMethod_START_METHOD_FORK
	case v1alpha1.StartMethodSpawn:
		return bridgev1.StartMethod_START_METHOD_SPAWN
	}
	return bridgev1.StartMethod_START_METHOD_AUTO
}

func sharesOf(list []v1alpha1.TenantShare) map[string]int {
	shares := make(map[string]int, len(list))
	for _, s := range list {
		shares[s.Tenant] = int(s.Weight)
	}
	return shares
}
