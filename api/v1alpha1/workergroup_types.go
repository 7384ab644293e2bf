package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// WorkerGroup is one router and the workers attached to it. The operator creates it; users only read it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=wgroup,categories={snakepit}
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.poolName`
// +kubebuilder:printcolumn:name="Ready",type=integer,JSONPath=`.status.router.readyWorkers`
// +kubebuilder:printcolumn:name="Wanted",type=integer,JSONPath=`.spec.workers`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type WorkerGroup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the pool's controller wants of this group.
	Spec WorkerGroupSpec `json:"spec"`

	// status has two owners: the router writes router, WorkersReady and AdapterLoaded; the operator the rest.
	// +kubebuilder:default={conditions: {{type: "Ready", status: "Unknown", reason: "Pending", message: "waiting for the operator", lastTransitionTime: "1970-01-01T00:00:00Z"}}}
	// +optional
	Status WorkerGroupStatus `json:"status,omitzero"`
}

// WorkerGroupSpec is what the pool's controller wants, and what the router follows.
type WorkerGroupSpec struct {
	// poolName is the pool's name: callers know the group by it.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	PoolName string `json:"poolName"`

	// workers is the number of worker processes of this group.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=256
	Workers int32 `json:"workers"`

	// revision is the hash of the pod-relevant input.
	// +kubebuilder:validation:MaxLength=63
	Revision string `json:"revision"`

	// podUID is the only pod that may serve; a router in another pod refuses every call. Empty until the pod exists.
	// +optional
	PodUID types.UID `json:"podUID,omitempty"`

	// nextPod is the number in the name of the pod that follows the one of podUID, and is written with it: the name of the next pod is the
	// same for every attempt, whatever is still seen of those before.
	// +kubebuilder:validation:Minimum=0
	// +optional
	NextPod int32 `json:"nextPod,omitempty"`

	// drainRequest is set when the group shall end, and never taken away. Only its deadline may come nearer, and its cause become a harder one.
	// +optional
	DrainRequest *DrainRequest `json:"drainRequest,omitempty"`

	// recycleRequest asks for fresh processes, as the annotation snakepit.dev/recycle of the pool does.
	// +optional
	RecycleRequest *RecycleRequest `json:"recycleRequest,omitempty"`

	PodSettings  `json:",inline"`
	LiveSettings `json:",inline"`
}

// DrainRequest asks a group to end: no new sessions, then nothing at all after the deadline.
type DrainRequest struct {
	// startedAt is when the drain began.
	StartedAt metav1.Time `json:"startedAt"`

	// deadline after which what is left is ended. A drain that is held (spec.drain.onDeadline of the pool) has one a year away.
	Deadline metav1.Time `json:"deadline"`

	// cause of the drain: Deleted, Replaced, Requested, NodeDrained, NodeLost.
	// +kubebuilder:validation:MaxLength=63
	Cause string `json:"cause"`
}

// HeldDrain is the time from the beginning to the deadline of a drain that is held: so far away that nothing of the drain's own ends it.
const HeldDrain = 365 * 24 * time.Hour

// Held says whether the drain ends only when nothing is left.
func (d *DrainRequest) Held() bool { return d != nil && d.Deadline.Sub(d.StartedAt.Time) >= HeldDrain }

// Causes of a drain.
const (
	// DrainCauseDeleted: the pool is being deleted.
	DrainCauseDeleted = "Deleted"
	// DrainCauseReplaced: the pod's own fields changed.
	DrainCauseReplaced = "Replaced"
	// DrainCauseRequested: the annotation snakepit.dev/drain asks for it.
	DrainCauseRequested = "Requested"
	// DrainCauseNodeDrained: the node of the group's pod is cordoned.
	DrainCauseNodeDrained = "NodeDrained"
	// DrainCauseNodeLost: the node of the group's pod was not Ready for spec.failover.after.
	DrainCauseNodeLost = "NodeLost"
)

// RecycleRequest asks for fresh processes once. A request with the id of the one before is the same request.
// +structType=atomic
type RecycleRequest struct {
	// id is the text of the annotation.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	ID string `json:"id"`

	// slots whose workers shall be replaced; all when there is none.
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:Minimum=0
	// +kubebuilder:validation:items:Maximum=255
	// +listType=atomic
	// +optional
	Slots []int32 `json:"slots,omitempty"`
}

// WorkerGroupStatus has two owners, by server-side apply.
type WorkerGroupStatus struct {
	// observedGeneration is the generation that the operator's part is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions: Ready, RouterReady, Draining, Stalled (operator); WorkersReady, AdapterLoaded (router).
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// podName is the pod that belongs to spec.podUID.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	PodName string `json:"podName,omitempty"`

	// router is the router's own word. It counts only while podUID is the group's current, Ready pod.
	// +optional
	Router *RouterStatus `json:"router,omitempty"`
}

// RouterStatus is written by the router: facts of life on change, at most once in 2 s; load at most once a minute.
type RouterStatus struct {
	// podUID of the router that wrote this.
	PodUID types.UID `json:"podUID"`

	// version of the router.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Version string `json:"version,omitempty"`

	// observedGeneration is the group's generation that the router follows.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// readyWorkers can take new sessions.
	// +optional
	ReadyWorkers int32 `json:"readyWorkers"`

	// busyWorkers run a call; rounded, at most a minute old.
	// +optional
	BusyWorkers int32 `json:"busyWorkers"`

	// sessions that live; rounded, at most a minute old.
	// +optional
	Sessions int32 `json:"sessions"`

	// drained is true when a requested drain is complete: nothing runs, nothing waits, no session lives.
	// +optional
	Drained bool `json:"drained,omitempty"`

	// sessionsLost counts the sessions that ended without their caller's wish since the router started.
	// +optional
	SessionsLost int64 `json:"sessionsLost,omitempty"`

	// recycleCompleted is the id of the last recycle request of which nothing is left to do.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	RecycleCompleted string `json:"recycleCompleted,omitempty"`

	// workers that exist or are wanted, by slot.
	// +listType=map
	// +listMapKey=slot
	// +kubebuilder:validation:MaxItems=256
	// +optional
	Workers []WorkerStatus `json:"workers,omitempty"`
}

// WorkerState is the state of one worker in words of EndpointSlice and this project.
// +kubebuilder:validation:Enum=Starting;Ready;Draining;Suspect;Failed
type WorkerState string

const (
	// WorkerStarting means: the process is being started.
	WorkerStarting WorkerState = "Starting"
	// WorkerReady means: takes calls and new sessions.
	WorkerReady WorkerState = "Ready"
	// WorkerDraining means: takes calls of its own sessions only.
	WorkerDraining WorkerState = "Draining"
	// WorkerSuspect means: its connection broke; its sessions wait.
	WorkerSuspect WorkerState = "Suspect"
	// WorkerFailed means: it ended and waits for its next start.
	WorkerFailed WorkerState = "Failed"
)

// WorkerStatus is one worker.
type WorkerStatus struct {
	// slot is the worker's place in the container.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	Slot int32 `json:"slot"`

	// incarnation is the nonce of the current process, in hexadecimal.
	// +kubebuilder:validation:MaxLength=32
	// +optional
	Incarnation string `json:"incarnation,omitempty"`

	// state of the worker.
	State WorkerState `json:"state"`

	// restarts of this slot since the container started.
	// +optional
	Restarts int32 `json:"restarts,omitempty"`

	// lastError says how the last process ended: cause, type and place, without the exception's message.
	// +kubebuilder:validation:MaxLength=256
	// +optional
	LastError string `json:"lastError,omitempty"`

	// lastExit says how the last process in this slot ended, for programs.
	// +optional
	LastExit *WorkerExit `json:"lastExit,omitempty"`
}

// WorkerGroupList is a list of groups.
// +kubebuilder:object:root=true
type WorkerGroupList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []WorkerGroup `json:"items"`
}
