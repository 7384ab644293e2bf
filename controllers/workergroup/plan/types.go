package plan

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// FailedPodRetry is the wait before a pod that ended without having served is replaced: a node that refuses pods must not be flooded.
const FailedPodRetry = 30 * time.Second

// Group is what the planner needs to know of a group.
type Group struct {
	Finalizer bool
	Deleting  bool
	Draining  bool
	// Lost: the group was given up with its node; a successor serves, and the Service must not lead to this one.
	Lost bool
	// PodUID is the only pod that may serve.
	PodUID types.UID
	// NextPod is the number of the next pod: one more than that of the pod that was named last.
	NextPod int
	// ForceAt is when a deletion that is not finished is forced; Forced says that it was asked for now.
	ForceAt time.Time
	Forced  bool
}

// Pod is what the planner needs to know of a pod of the group.
type Pod struct {
	Name string
	UID  types.UID
	// Ordinal is the number in the name; -1 for a name of another kind.
	Ordinal int
	Node    string
	// Ready and Serving: the pod's condition, and the label that the pool's Service selects.
	Ready   bool
	Serving bool
	// Terminating pods are gone by GraceOver, unless their node does not answer.
	Terminating bool
	GraceOver   time.Time
	// Killed: the pod was deleted without grace.
	Killed bool
	// Ended: no container runs any more; since EndedAt. Served says that it had been Ready for a while before.
	Ended   bool
	EndedAt time.Time
	Served  bool
	// Stripped: labels or the reference by which the pod is known as the group's were taken or changed.
	Stripped bool
}

// Input is one look at a group.
type Input struct {
	Now   time.Time
	Group Group
	Pods  []Pod
}

// Action is one of the types below.
type Action interface{ isAction() }

// AddFinalizer holds the group before it has a pod.
type AddFinalizer struct{ Reason string }

// CreatePod makes the pod with this number.
type CreatePod struct {
	Ordinal int
	Reason  string
}

// SetPodUID names the only pod that may serve, and with it the number of the next one.
type SetPodUID struct {
	Pod    Pod
	Reason string
}

// SetServing gives or takes the label that the pool's Service selects.
type SetServing struct {
	Pod     Pod
	Serving bool
	Reason  string
}

// MarkPod gives a pod back the labels and the reference by which it is known.
type MarkPod struct {
	Pod    Pod
	Reason string
}

// DeletePod deletes a pod, with its own grace or, forced, without any.
type DeletePod struct {
	Pod    Pod
	Force  bool
	Reason string
}

// Release lets the group go. Unless forced, it must first be verified without a cache that no pod of it is left.
type Release struct {
	Forced bool
	Reason string
}

func (AddFinalizer) isAction() {}
func (CreatePod) isAction()    {}
func (SetPodUID) isAction()    {}
func (SetServing) isAction()   {}
func (MarkPod) isAction()      {}
func (DeletePod) isAction()    {}
func (Release) isAction()      {}

// Plan is what to do now, and when to look again if nothing happens before; zero for never.
type Plan struct {
	Actions []Action
	Again   time.Time
}

func (p *Plan) do(a Action) { p.Actions = append(p.Actions, a) }

func (p *Plan) lookAt(t time.Time) {
	if p.Again.IsZero() || t.Before(p.Again) {
		p.Again = t
	}
}
