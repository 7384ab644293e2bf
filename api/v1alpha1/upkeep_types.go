package v1alpha1

import (
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
