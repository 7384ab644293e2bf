package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WorkerPool asks for a number of warm Python workers behind one address.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.workers,statuspath=.status.workers,selectorpath=.status.selector
// +kubebuilder:resource:shortName=wpool,categories={all,snakepit}
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.readySummary`
// +kubebuilder:printcolumn:name="Busy",type=integer,JSONPath=`.status.busyWorkers`
// +kubebuilder:printcolumn:name="Sessions",type=integer,JSONPath=`.status.sessions`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Image",type=string,priority=1,JSONPath=`.spec.image`
// +kubebuilder:printcolumn:name="Adapter",type=string,priority=1,JSONPath=`.spec.adapter`
// +kubebuilder:printcolumn:name="Endpoint",type=string,priority=1,JSONPath=`.status.endpoint`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 40",message="metadata.name must start with a letter, hold only a-z, 0-9 and -, and have at most 40 characters, because it names a Service"
type WorkerPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the user asks for.
	Spec WorkerPoolSpec `json:"spec"`

	// status is what the operator saw.
	// +kubebuilder:default={conditions: {{type: "Ready", status: "Unknown", reason: "Pending", message: "waiting for the operator", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	// +optional
	Status WorkerPoolStatus `json:"status,omitzero"`
}

// WorkerPoolSpec is what the user asks for. The smallest pool is workers, image and adapter.
// +kubebuilder:validation:XValidation:rule="!has(self.slots) || self.profile == 'Thread'",message="slots is for workers that serve several calls at a time: set profile: Thread, or remove slots"
// +kubebuilder:validation:XValidation:rule="has(self.slots) || self.profile != 'Thread'",message="profile Thread needs slots, the number of calls that a worker serves at a time: add slots: 2 to 256"
// +kubebuilder:validation:XValidation:rule="self.workers <= self.placement.workersPerPod",message="workers must not be above placement.workersPerPod: a pool is one group, in one pod. Raise placement.workersPerPod (at most 256), or make a second pool"
type WorkerPoolSpec struct {
	// workers is the number of worker processes.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=256
	Workers int32 `json:"workers"`

	// placement says how workers are spread over pods.
	// +kubebuilder:default={}
	// +optional
	Placement Placement `json:"placement,omitzero"`

	// failover says when a group whose node is lost gets a successor. A change restarts no pod.
	// +kubebuilder:default={}
	// +optional
	Failover FailoverSettings `json:"failover,omitzero"`

	PodSettings  `json:",inline"`
	LiveSettings `json:",inline"`
}

// PlacementMode says what a group is made of.
// +kubebuilder:validation:Enum=Pod
type PlacementMode string

// PlacementModePod says that a group is one pod with a router and all its workers.
const PlacementModePod PlacementMode = "Pod"

// Placement says how workers are spread over pods.
type Placement struct {
	// mode says what a group is made of. Defaults to Pod.
	// +kubebuilder:default=Pod
	// +optional
	Mode PlacementMode `json:"mode,omitempty"`

	// workersPerPod bounds the workers of one pod. Resources in the template are for so many workers and one more. Defaults to 32.
	// +kubebuilder:default=32
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=256
	// +optional
	WorkersPerPod int32 `json:"workersPerPod,omitempty"`
}

// WorkerPoolStatus is computed by the operator from the pool's groups.
type WorkerPoolStatus struct {
	// observedGeneration is the generation that this status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions: Ready, Reconciling, Stalled, WorkersAvailable, RouterReady, AdapterLoaded, Draining, Recycling.
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// workers is the number of worker processes that exist.
	// +optional
	Workers int32 `json:"workers"`

	// readyWorkers can take new sessions.
	// +optional
	ReadyWorkers int32 `json:"readyWorkers"`

	// busyWorkers run a call; rounded, at most a minute old.
	// +optional
	BusyWorkers int32 `json:"busyWorkers"`

	// sessions that live; rounded, at most a minute old.
	// +optional
	Sessions int32 `json:"sessions"`

	// readySummary is readyWorkers/spec.workers, for people.
	// +kubebuilder:validation:MaxLength=32
	// +optional
	ReadySummary string `json:"readySummary,omitempty"`

	// endpoint is the address of the pool's Service for gRPC clients in the cluster.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Endpoint string `json:"endpoint,omitempty"`

	// selector of the scale subresource. In Pod mode it matches no pod: an autoscaler on CPU would count pods, not workers.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Selector string `json:"selector,omitempty"`

	// revision of the group that serves.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Revision string `json:"revision,omitempty"`
}

// WorkerPoolList is a list of pools.
// +kubebuilder:object:root=true
type WorkerPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []WorkerPool `json:"items"`
}
