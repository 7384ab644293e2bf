package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// HeartbeatSettings says when a silent worker is taken for stuck: after timeout without a byte and missed unanswered Pings. One that used CPU
// time meanwhile is busy, not stuck, and bounded by calls.timeout.
// +kubebuilder:validation:XValidation:rule="!has(self.interval) || (duration(self.interval) >= duration('100ms') && duration(self.interval) <= duration('1m'))",message="heartbeat.interval must be between 100ms and 1m"
// +kubebuilder:validation:XValidation:rule="!has(self.timeout) || (duration(self.timeout) >= duration('500ms') && duration(self.timeout) <= duration('1h'))",message="heartbeat.timeout must be between 500ms and 1h"
// +kubebuilder:validation:XValidation:rule="!has(self.interval) || !has(self.timeout) || duration(self.timeout) >= duration(self.interval)",message="heartbeat.timeout must not be shorter than heartbeat.interval: raise timeout, or lower interval"
type HeartbeatSettings struct {
	// interval between two Pings to each worker and the supervisor. Defaults to 2s.
	// +kubebuilder:default="2s"
	// +optional
	Interval *metav1.Duration `json:"interval,omitempty"`

	// timeout without any sign of life after which a worker that used no CPU time either is killed and replaced. Defaults to 10s.
	// +kubebuilder:default="10s"
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`

	// missed Pings that must be unanswered as well. Defaults to 3.
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	// +optional
	Missed int32 `json:"missed,omitempty"`
}

// CrashSettings says what follows from the death of workers.
// +kubebuilder:validation:XValidation:rule="!has(self.window) || (duration(self.window) >= duration('1s') && duration(self.window) <= duration('24h'))",message="crash.window must be between 1s and 24h"
// +kubebuilder:validation:XValidation:rule="!has(self.backoff) || (duration(self.backoff) >= duration('10ms') && duration(self.backoff) <= duration('1h'))",message="crash.backoff must be between 10ms and 1h"
// +kubebuilder:validation:XValidation:rule="!has(self.maxBackoff) || (duration(self.maxBackoff) >= duration('10ms') && duration(self.maxBackoff) <= duration('1h'))",message="crash.maxBackoff must be between 10ms and 1h"
// +kubebuilder:validation:XValidation:rule="!has(self.backoff) || !has(self.maxBackoff) || duration(self.backoff) <= duration(self.maxBackoff)",message="crash.backoff must not be longer than crash.maxBackoff: lower backoff, or raise maxBackoff"
// +kubebuilder:validation:XValidation:rule="!has(self.quarantine) || (duration(self.quarantine) >= duration('0s') && duration(self.quarantine) <= duration('168h'))",message="crash.quarantine must be between 0s (no quarantine) and 168h"
type CrashSettings struct {
	// maxRestarts within window that are borne; more make the pool Stalled, reason CrashLooping, until it holds again. Defaults to 10.
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	// +optional
	MaxRestarts int32 `json:"maxRestarts,omitempty"`

	// window in which restarts are counted. Defaults to 1m.
	// +kubebuilder:default="1m"
	// +optional
	Window *metav1.Duration `json:"window,omitempty"`

	// backoff before the second replacement of a worker in a row; it doubles with each further one. The first comes at once. Defaults to 1s.
	// +kubebuilder:default="1s"
	// +optional
	Backoff *metav1.Duration `json:"backoff,omitempty"`

	// maxBackoff bounds backoff. Defaults to 30s.
	// +kubebuilder:default="30s"
	// +optional
	MaxBackoff *metav1.Duration `json:"maxBackoff,omitempty"`

	// quarantine is how long a request that was held by two workers when they died, and that no worker finished in between, is refused, as REQUEST_QUARANTINED; 0s for not at all.
	// Defaults to 10m.
	// +kubebuilder:default="10m"
	// +optional
	Quarantine *metav1.Duration `json:"quarantine,omitempty"`

	// exposeMessages shows what exceptions said, and the last line of output, in status and Events. They may carry data of users. Defaults to
	// false: type and place only.
	// +optional
	ExposeMessages bool `json:"exposeMessages,omitempty"`
}

// RecycleSettings says when a worker is replaced by a fresh process. Its replacement is ready first; workers without sessions come first; one at
// a time. A limit that is unset is none.
// +kubebuilder:validation:XValidation:rule="!has(self.maxAge) || (duration(self.maxAge) >= duration('1s') && duration(self.maxAge) <= duration('8760h'))",message="recycle.maxAge must be between 1s and 8760h; leave it out for no bound"
// +kubebuilder:validation:XValidation:rule="!has(self.maxMemory) || (quantity(string(self.maxMemory)).compareTo(quantity('1Mi')) >= 0 && quantity(string(self.maxMemory)).compareTo(quantity('16Ti')) <= 0)",message="recycle.maxMemory must be between 1Mi and 16Ti; leave it out for no bound"
// +kubebuilder:validation:XValidation:rule="!has(self.deadline) || (duration(self.deadline) >= duration('1s') && duration(self.deadline) <= duration('24h'))",message="recycle.deadline must be between 1s and 24h"
type RecycleSettings struct {
	// maxAge of a worker, from its first readiness.
	// +optional
	MaxAge *metav1.Duration `json:"maxAge,omitempty"`

	// maxRequests is the number of calls after which a worker is replaced.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000000000
	// +optional
	MaxRequests int64 `json:"maxRequests,omitempty"`

	// maxMemory is the private memory of a worker, what it shares with the process it was forked from left out, at which it is replaced.
	// +optional
	MaxMemory *resource.Quantity `json:"maxMemory,omitempty"`

	// jitter is the percentage by which the limits of each worker are lowered or raised at random, so that they do not all end at once.
	// Defaults to 10.
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=50
	// +optional
	Jitter *int32 `json:"jitter,omitempty"`

	// deadline by which the sessions of the old worker must have ended; what is left then is lost, with cause RECYCLED. Defaults to 10m.
	// +kubebuilder:default="10m"
	// +optional
	Deadline *metav1.Duration `json:"deadline,omitempty"`
}
