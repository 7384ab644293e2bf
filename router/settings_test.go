package main

import (
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/upstream"
)

func lasting(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }

// Each setting reaches the one field that it is for, and no other: what differs from the translation of an empty spec is all there is.
func TestEachSettingIsTranslated(t *testing.T) {
	for name, c := range map[string]struct {
		spec func(*v1alpha1.WorkerGroupSpec)
		want func(*upstream.Settings)
	}{
		"workers":                 {func(s *v1alpha1.WorkerGroupSpec) { s.Workers = 7 }, func(u *upstream.Settings) { u.Wanted = 7 }},
		"calls.timeout":           {func(s *v1alpha1.WorkerGroupSpec) { s.Calls.Timeout = lasting(time.Second) }, func(u *upstream.Settings) { u.CallTimeout = time.Second }},
		"calls.killAfter":         {func(s *v1alpha1.WorkerGroupSpec) { s.Calls.KillAfter = lasting(time.Second) }, func(u *upstream.Settings) { u.KillAfter = time.Second }},
		"calls.maxMessageBytes":   {func(s *v1alpha1.WorkerGroupSpec) { s.Calls.MaxMessageBytes = 2048 }, func(u *upstream.Settings) { u.MaxMessage = 2048 }},
		"calls.streamTimeout":     {func(s *v1alpha1.WorkerGroupSpec) { s.Calls.StreamTimeout = lasting(time.Hour) }, func(u *upstream.Settings) { u.StreamTimeout = time.Hour }},
		"calls.streamIdleTimeout": {func(s *v1alpha1.WorkerGroupSpec) { s.Calls.StreamIdleTimeout = lasting(time.Hour) }, func(u *upstream.Settings) { u.StreamIdleTimeout = time.Hour }},
		"queue.maxLength":         {func(s *v1alpha1.WorkerGroupSpec) { s.Queue.MaxLength = 9 }, func(u *upstream.Settings) { u.Dispatch.MaxLength = 9 }},
		"queue.shares":            {func(s *v1alpha1.WorkerGroupSpec) { s.Queue.Shares = []v1alpha1.TenantShare{{Tenant: "a", Weight: 3}} }, func(u *upstream.Settings) { u.Shares = map[string]int{"a": 3} }},
		"crash.maxRestarts":       {func(s *v1alpha1.WorkerGroupSpec) { s.Crash.MaxRestarts = 3 }, func(u *upstream.Settings) { u.Crash.MaxRestarts = 3 }},
		"crash.window":            {func(s *v1alpha1.WorkerGroupSpec) { s.Crash.Window = lasting(time.Hour) }, func(u *upstream.Settings) { u.Crash.Window = time.Hour }},
		"crash.backoff":           {func(s *v1alpha1.WorkerGroupSpec) { s.Crash.Backoff = lasting(2 * time.Second) }, func(u *upstream.Settings) { u.Backoff = 2 * time.Second }},
		"crash.maxBackoff":        {func(s *v1alpha1.WorkerGroupSpec) { s.Crash.MaxBackoff = lasting(time.Hour) }, func(u *upstream.Settings) { u.MaxBackoff = time.Hour }},
		"crash.quarantine":        {func(s *v1alpha1.WorkerGroupSpec) { s.Crash.Quarantine = lasting(0) }, func(u *upstream.Settings) { u.Crash.Quarantine = 0 }},
		"crash.exposeMessages":    {func(s *v1alpha1.WorkerGroupSpec) { s.Crash.ExposeMessages = true }, func(u *upstream.Settings) { u.Crash.ExposeMessages = true }},
		"drain.timeout":           {func(s *v1alpha1.WorkerGroupSpec) { s.Drain.Timeout = lasting(time.Hour) }, func(u *upstream.Settings) { u.Dispatch.DrainTimeout = time.Hour }},
		"startup.timeout":         {func(s *v1alpha1.WorkerGroupSpec) { s.Startup.Timeout = lasting(time.Hour) }, func(u *upstream.Settings) { u.StartupTimeout = time.Hour }},
		"startup.batchSize":       {func(s *v1alpha1.WorkerGroupSpec) { s.Startup.BatchSize = 3 }, func(u *upstream.Settings) { u.BatchSize = 3 }},
		"startup.batchInterval":   {func(s *v1alpha1.WorkerGroupSpec) { s.Startup.BatchInterval = lasting(0) }, func(u *upstream.Settings) { u.BatchInterval = 0 }},
		"heartbeat.interval":      {func(s *v1alpha1.WorkerGroupSpec) { s.Heartbeat.Interval = lasting(time.Second) }, func(u *upstream.Settings) { u.Heartbeat.Interval = time.Second }},
		"heartbeat.timeout":       {func(s *v1alpha1.WorkerGroupSpec) { s.Heartbeat.Timeout = lasting(time.Minute) }, func(u *upstream.Settings) { u.Heartbeat.Timeout = time.Minute }},
		"heartbeat.missed":        {func(s *v1alpha1.WorkerGroupSpec) { s.Heartbeat.Missed = 5 }, func(u *upstream.Settings) { u.Heartbeat.Missed = 5 }},
	} {
		t.Run(name, func(t *testing.T) {
			spec, want := v1alpha1.WorkerGroupSpec{}, settingsOf(v1alpha1.WorkerGroupSpec{}, "p", false)
			c.spec(&spec)
			c.want(&want)
			if got := settingsOf(spec, "p", false); !reflect.DeepEqual(got, want) {
				t.Errorf("got\n%+v, want\n%+v", got, want)
			}
			if reflect.DeepEqual(want, settingsOf(v1alpha1.WorkerGroupSpec{}, "p", false)) {
				t.Error("the case changes nothing")
			}
		})
	}
}
