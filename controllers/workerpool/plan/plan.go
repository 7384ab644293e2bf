package plan

import (
	"slices"
	"sort"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// Decide returns what to do about the pool.
func Decide(in Input) Plan {
	var p Plan
	sort.Slice(in.Groups, func(i, j int) bool { return in.Groups[i].Ordinal < in.Groups[j].Ordinal })
	switch {
	case in.Pool.Deleting:
		end(in, &p)
	case !in.Pool.Finalizer:
		p.do(AddFinalizer{Reason: "before the first child"})
	case taken(in.Children):
		p.lookAt(in.Now.Add(TakenRetry))
	default:
		keep(in, &p)
	}
	return p
}

// end drains and deletes every group, then what stands around them, then releases the pool.
func end(in Input, p *Plan) {
	if !in.Pool.Finalizer {
		return
	}
	for _, g := range in.Groups {
		if g.Drain == nil && !g.Deleting && g.Reachable {
			p.do(drain(in, g, v1alpha1.DrainCauseDeleted))
			continue
		}
		finish(in, g, p)
	}
	orphans(in, p)
	if len(in.Groups) > 0 || len(in.Orphans) > 0 {
		return
	}
	left := false
	for _, c := range in.Children {
		if c.UID != "" && c.State != Taken {
			p.do(DeleteChild{Child: c, Reason: "the pool is deleted"})
			left = true
		}
	}
	if !left {
		p.do(Release{Reason: "nothing is left"})
	}
}

// keep has one group of the current revision serve. Others end first: Recreate. Only a group that is lost with its node is not waited for.
func keep(in Input, p *Plan) {
	var active *Group
	var names []string
	room := !in.Pool.DrainAsked
	for i := range in.Groups {
		g := &in.Groups[i]
		names = append(names, g.Name)
		if giveUp(in, g, p) {
			room = false
			continue
		}
		if g.Deleting || g.Drain != nil {
			finish(in, *g, p)
			room = room && g.fenced()
			continue
		}
		room = false
		if cause, reason := causeToEnd(in, g, active != nil); cause != "" {
			retire(in, g, cause, reason, p)
		} else {
			active = g
		}
	}
	orphans(in, p)
	next := -1
	if room {
		next = freeOrdinal(in.Pool.UsedOrdinals)
		names = append(names, in.GroupName(next))
	}
	slices.Sort(names)
	children(in, names, p)
	if next >= 0 {
		p.do(CreateGroup{Ordinal: next, Reason: "the pool has no group of its current revision"})
	} else if active != nil && !active.Matching {
		p.do(UpdateGroup{Group: *active, Reason: "the pool's live settings changed"})
	}
}

// children makes what stands around the groups, before the first of them.
func children(in Input, names []string, p *Plan) {
	for _, c := range in.Children {
		switch c.State {
		case Missing:
			p.do(EnsureChild{Child: c, Groups: names, Reason: "it is missing"})
		case Different:
			p.do(EnsureChild{Child: c, Groups: names, Reason: "it differs from what the pool needs"})
		case Unwanted:
			// Groups that end still use the account of before.
			if c.Kind == PodDisruptionBudget || len(in.Groups) <= 1 {
				p.do(DeleteChild{Child: c, Reason: "the pool does not need it any more"})
			}
		case Matching:
			if c.Kind == Role && !slices.Equal(names, in.Pool.RoleGroups) {
				p.do(EnsureChild{Child: c, Groups: names, Reason: "the groups changed"})
			}
		}
	}
}

func orphans(in Input, p *Plan) {
	for _, pod := range in.Orphans {
		// Nobody watches them for the pool.
		p.lookAt(in.Now.Add(OrphanRetry))
		if !pod.Terminating {
			p.do(DeletePod{Pod: pod, Reason: "its group is gone"})
		}
	}
}

func taken(children []Child) bool {
	return slices.ContainsFunc(children, func(c Child) bool { return c.State == Taken })
}

func freeOrdinal(used map[int]bool) int {
	n := 0
	for used[n] {
		n++
	}
	return n
}
