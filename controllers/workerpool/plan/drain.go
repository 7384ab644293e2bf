package plan

import (
	"time"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// lost says whether the group was given up with its node: a successor does not wait for its end.
func (g *Group) lost() bool { return g.Drain != nil && g.Drain.Cause == v1alpha1.DrainCauseNodeLost }

// fenced says that a lost group is out of the way: it is deleted, and the Service does not lead to it.
func (g *Group) fenced() bool { return g.lost() && g.Deleting && !g.Serving }

// giveUp marks a group whose node has been down for too long, whatever state the group is in. It says whether it did.
func giveUp(in Input, g *Group, p *Plan) bool {
	if g.lost() || g.Node.DownSince.IsZero() {
		return false
	}
	if at := g.Node.DownSince.Add(in.Pool.FailoverAfter); in.Now.Before(at) {
		p.lookAt(at)
		return false
	}
	if g.Node.Alone {
		// Nothing would be won, and sessions that come back with the node would be lost: this may be a fault of the network, not of the nodes.
		p.lookAt(in.Now.Add(ElsewhereRetry))
		return false
	}
	now := in.Now.Truncate(time.Second)
	mark := DrainGroup{Group: *g, Started: now, Deadline: now, Cause: v1alpha1.DrainCauseNodeLost}
	if g.Drain != nil {
		mark.Started = g.Drain.Started
		if g.Drain.Deadline.Before(now) {
			mark.Deadline = g.Drain.Deadline
		}
	}
	p.do(mark)
	return true
}

// causeToEnd says why a group that serves shall end; empty when it shall not.
func causeToEnd(in Input, g *Group, surplus bool) (cause, reason string) {
	switch {
	case in.Pool.DrainAsked:
		return v1alpha1.DrainCauseRequested, "the annotation " + v1alpha1.AnnotationDrain + " asks for it"
	case surplus || g.Revision != in.Pool.Revision:
		return v1alpha1.DrainCauseReplaced, "it is replaced"
	case g.Node.Cordoned && (g.Reachable || g.Node.DownSince.IsZero()):
		// On a node that is down as well nothing can be drained: it comes back, or is given up.
		return v1alpha1.DrainCauseNodeDrained, "node " + g.Node.Name + " is cordoned"
	}
	return "", ""
}

// retire begins the end of a group.
func retire(in Input, g *Group, cause, reason string, p *Plan) {
	if !g.Reachable {
		p.do(DeleteGroup{Group: *g, Reason: reason + ", and nothing runs in it that could be drained"})
		return
	}
	p.do(drain(in, *g, cause))
}

func drain(in Input, g Group, cause string) DrainGroup {
	started := in.Now.Truncate(time.Second)
	limit := g.DrainTimeout
	if in.Pool.Hold && cause != v1alpha1.DrainCauseDeleted {
		limit = v1alpha1.HeldDrain
	}
	return DrainGroup{Group: g, Started: started, Deadline: started.Add(limit), Cause: cause}
}

// finish deletes a draining group as soon as nothing is left to wait for.
func finish(in Input, g Group, p *Plan) {
	switch {
	case g.Deleting:
	case g.lost():
		p.do(DeleteGroup{Group: g, Reason: "its node " + g.Node.Name + " is lost"})
	case !g.Reachable && !mayReturn(in, g):
		p.do(DeleteGroup{Group: g, Reason: "nothing runs in it that could be drained"})
	case g.Drained:
		p.do(DeleteGroup{Group: g, Reason: "it is drained"})
	case !in.Now.Before(g.Drain.Deadline):
		p.do(DeleteGroup{Group: g, Reason: "drain.timeout passed", Late: true})
	case g.Drain.Held:
		held(in, g, p)
	default:
		p.lookAt(g.Drain.Deadline)
	}
}

// mayReturn says whether a draining group that does not answer may still hold sessions that its pool wants to wait for: its node is down and
// not given up yet, or the drain is held and its pod runs.
func mayReturn(in Input, g Group) bool {
	return !in.Pool.Deleting && g.Drain != nil && (!g.Node.DownSince.IsZero() || (g.Drain.Held && g.Runs))
}

// held gives a drain without an end its deadline when the pool does not hold it any more, or is deleted.
func held(in Input, g Group, p *Plan) {
	limit := g.Drain.Started.Add(g.DrainTimeout)
	switch {
	case in.Pool.Deleting:
		p.do(drain(in, g, v1alpha1.DrainCauseDeleted))
	case !in.Pool.Hold:
		now := in.Now.Truncate(time.Second)
		if limit.Before(now) {
			limit = now
		}
		p.do(DrainGroup{Group: g, Started: g.Drain.Started, Deadline: limit, Cause: g.Drain.Cause})
	case in.Now.Before(limit):
		// The status says then that it is held.
		p.lookAt(limit)
	}
}
