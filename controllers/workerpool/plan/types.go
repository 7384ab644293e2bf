package plan

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// ElsewhereRetry is the wait before it is looked again for a node that could take a successor.
const ElsewhereRetry = 10 * time.Second

// TakenRetry is the wait before a name that another owner holds is tried again.
const TakenRetry = 10 * time.Second

// OrphanRetry is the wait before pods whose group is gone are looked at again.
const OrphanRetry = 2 * time.Second

// Kind of an object beside the groups.
type Kind string

// The objects beside the groups, in the order in which they are made.
const (
	ServiceAccount      Kind = "ServiceAccount"
	Role                Kind = "Role"
	RoleBinding         Kind = "RoleBinding"
	Service             Kind = "Service"
	PodDisruptionBudget Kind = "PodDisruptionBudget"
)

// State of an object beside the groups.
type State string

const (
	// Missing means: it shall exist and does not.
	Missing State = "Missing"
	// Matching means: it is as it shall be.
	Matching State = "Matching"
	// Different means: it is the pool's and not as it shall be.
	Different State = "Different"
	// Taken means: an object of that name is not the pool's.
	Taken State = "Taken"
	// Unwanted means: it is the pool's and shall not exist.
	Unwanted State = "Unwanted"
	// Absent means: it shall not exist and does not.
	Absent State = "Absent"
)

// Child is one object beside the groups.
type Child struct {
	Kind  Kind
	Name  string
	UID   types.UID
	State State
}

// Drain is a drain that was asked for.
type Drain struct {
	Started  time.Time
	Deadline time.Time
	Cause    string
	// Held means: the deadline is v1alpha1.HeldDrain away.
	Held bool
}

// Node is what is known of the node of a group's pod. The zero value is a node that is well, or not known.
type Node struct {
	Name string
	// Cordoned: no new pod may come, and the group's pod does not say that it may all the same.
	Cordoned bool
	// DownSince is when it stopped being Ready; zero while it is.
	DownSince time.Time
	// Alone: no other node is Ready and takes pods. Known only while this one is down.
	Alone bool
}

// Group is what the planner needs to know of a group.
type Group struct {
	Name     string
	UID      types.UID
	Revision string
	Ordinal  int
	Deleting bool
	// Drain is nil until a drain was asked for.
	Drain        *Drain
	DrainTimeout time.Duration
	// Drained is the router's word; Reachable says whether its word counts now.
	Drained   bool
	Reachable bool
	// Matching means: the live settings are the pool's.
	Matching bool
	// Node of the pod that serves, or shall serve.
	Node Node
	// Runs: a pod of the group exists whose containers have not all ended.
	Runs bool
	// Serving: a pod of the group carries the label that the pool's Service selects.
	Serving bool
}

// Pod is a pod whose group is gone.
type Pod struct {
	Name        string
	UID         types.UID
	Terminating bool
}

// Pool is what the planner needs to know of the pool itself.
type Pool struct {
	Finalizer bool
	Deleting  bool
	Revision  string
	// UsedOrdinals of the current revision's names, whoever owns them.
	UsedOrdinals map[int]bool
	// DrainAsked: the annotation that drains the pool is there.
	DrainAsked bool
	// Hold: what is left at a drain's deadline stays.
	Hold bool
	// FailoverAfter is how long a node may be down before its groups are replaced.
	FailoverAfter time.Duration
	// RoleGroups are the groups that the role names now.
	RoleGroups []string
}

// Input is one look at a pool.
type Input struct {
	Now      time.Time
	Pool     Pool
	Groups   []Group
	Children []Child
	Orphans  []Pod
	// GroupName gives the name of the current revision's n-th group.
	GroupName func(ordinal int) string
}

// Action is one of the types below.
type Action interface{ isAction() }

// AddFinalizer holds the pool before it has a child.
type AddFinalizer struct{ Reason string }

// EnsureChild makes an object beside the groups, or makes it as it shall be. Groups are the names that a role allows.
type EnsureChild struct {
	Child  Child
	Groups []string
	Reason string
}

// DeleteChild deletes an object beside the groups.
type DeleteChild struct {
	Child  Child
	Reason string
}

// CreateGroup makes the group of the current revision with this number.
type CreateGroup struct {
	Ordinal int
	Reason  string
}

// UpdateGroup gives a group the pool's live settings.
type UpdateGroup struct {
	Group  Group
	Reason string
}

// DrainGroup asks a group to end. The mark stays: later plans keep to it, or bring its deadline nearer.
type DrainGroup struct {
	Group    Group
	Started  time.Time
	Deadline time.Time
	Cause    string
}

// DeleteGroup deletes a group that has ended, or whose time is over.
type DeleteGroup struct {
	Group  Group
	Reason string
	// Late: the deadline passed before the drain was complete.
	Late bool
}

// DeletePod deletes a pod whose group is gone.
type DeletePod struct {
	Pod    Pod
	Reason string
}

// Release lets the pool go, after it is verified without a cache that nothing of it is left.
type Release struct{ Reason string }

func (AddFinalizer) isAction() {}
func (EnsureChild) isAction()  {}
func (DeleteChild) isAction()  {}
func (CreateGroup) isAction()  {}
func (UpdateGroup) isAction()  {}
func (DrainGroup) isAction()   {}
func (DeleteGroup) isAction()  {}
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
