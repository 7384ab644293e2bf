package plan

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a pool and its children as an API server would keep them. The planner sees a copy.
type world struct {
	t        *rapid.T
	now      time.Time
	pool     Pool
	released bool
	groups   []Group
	children map[Kind]State
	role     []string
	made     int
	// nodes by name; each is well, or cordoned, or down since some time, or both. spare is always well.
	nodes map[string]*Node
}

const (
	after = time.Minute
	spare = "spare"
)

var kinds = []Kind{ServiceAccount, Role, RoleBinding, Service, PodDisruptionBudget}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, now: begin, pool: Pool{Revision: "r0", FailoverAfter: after}, children: map[Kind]State{}, nodes: map[string]*Node{}}
	for _, kind := range kinds {
		w.children[kind] = Missing
	}
	for _, name := range []string{"n1", "n2", spare} {
		w.nodes[name] = &Node{Name: name}
	}
	return w
}

func name(revision string, n int) string { return fmt.Sprintf("p-%s-%d", revision, n) }

func (w *world) input() Input {
	in := Input{Now: w.now, Pool: w.pool, GroupName: func(n int) string { return name(w.pool.Revision, n) }}
	in.Pool.RoleGroups = w.role
	in.Pool.UsedOrdinals = map[int]bool{}
	for _, g := range w.groups {
		if g.Revision == w.pool.Revision {
			in.Pool.UsedOrdinals[g.Ordinal] = true
		}
	}
	for _, g := range w.groups {
		g.Node = *w.nodes[g.Node.Name]
		in.Groups = append(in.Groups, g)
	}
	for _, kind := range kinds {
		c := Child{Kind: kind, State: w.children[kind]}
		if c.State != Missing {
			c.UID = types.UID(kind)
		}
		in.Children = append(in.Children, c)
	}
	return in
}

func (w *world) apply(p Plan) {
	for _, action := range p.Actions {
		switch a := action.(type) {
		case AddFinalizer:
			w.pool.Finalizer = true
		case EnsureChild:
			w.held("a child")
			w.children[a.Child.Kind] = Matching
			if a.Child.Kind == Role {
				if len(a.Groups) == 0 {
					w.t.Fatal("a role without names allows every group")
				}
				w.role = a.Groups
			}
		case DeleteChild:
			if len(w.groups) > 0 {
				w.t.Fatalf("%s was deleted under %d groups", a.Child.Kind, len(w.groups))
			}
			w.children[a.Child.Kind] = Missing
		case CreateGroup:
			w.create(a)
		case UpdateGroup:
			w.edit(a.Group.UID, func(g *Group) { g.Matching = true })
		case DrainGroup:
			w.drain(a)
		case DeleteGroup:
			w.edit(a.Group.UID, func(g *Group) {
				if g.Reachable && !g.Drained && !g.lost() && w.now.Before(g.Drain.Deadline) {
					w.t.Fatalf("group %s was deleted while it drained", g.Name)
				}
				g.Deleting = true
			})
		case Release:
			if len(w.groups) > 0 || w.left() > 0 {
				w.t.Fatalf("released with %d groups and children %v", len(w.groups), w.children)
			}
			w.released = true
		}
	}
}

func (w *world) held(what string) {
	if !w.pool.Finalizer || w.pool.Deleting {
		w.t.Fatalf("%s was made for %+v", what, w.pool)
	}
}

func (w *world) left() int {
	n := 0
	for _, state := range w.children {
		if state != Missing {
			n++
		}
	}
	return n
}

func (w *world) create(a CreateGroup) {
	w.held("a group")
	if w.pool.DrainAsked {
		w.t.Fatal("a group was made for a pool that is drained")
	}
	for _, g := range w.groups {
		if !g.lost() || !g.Deleting || g.Serving {
			w.t.Fatalf("a group was made beside %+v: Recreate ends the old one first, and only what is lost is not waited for", g)
		}
	}
	for kind, state := range w.children {
		if state != Matching {
			w.t.Fatalf("a group was made before its %s", kind)
		}
	}
	if !slices.Contains(w.role, name(w.pool.Revision, a.Ordinal)) {
		w.t.Fatalf("the router of group %d may do nothing: the role names %v", a.Ordinal, w.role)
	}
	w.made++
	node := rapid.SampledFrom([]string{"n1", "n2", spare}).Draw(w.t, "node")
	if n := w.nodes[node]; n.Cordoned || !n.DownSince.IsZero() {
		node = spare
	}
	w.groups = append(w.groups, Group{Node: Node{Name: node}, Runs: true, Name: name(w.pool.Revision, a.Ordinal), UID: types.UID(fmt.Sprint("uid-", w.made)),
		Revision: w.pool.Revision, Ordinal: a.Ordinal, Matching: true, DrainTimeout: 30 * time.Second})
}

func (w *world) drain(a DrainGroup) {
	w.edit(a.Group.UID, func(g *Group) {
		if a.Deadline.Before(a.Started) || (g.Drain == nil && a.Started.Before(w.now.Truncate(time.Second))) {
			w.t.Fatalf("deadline %s, started %s, now %s", a.Deadline, a.Started, w.now)
		}
		if was := g.Drain; was != nil && (a.Deadline.After(was.Deadline) || was.Cause == v1alpha1.DrainCauseNodeLost) {
			w.t.Fatalf("drain %+v became %+v: a mark stays, or comes nearer", *was, a)
		}
		down := w.nodes[g.Node.Name].DownSince
		switch limit := a.Deadline.Sub(a.Started); {
		case a.Cause == v1alpha1.DrainCauseNodeLost:
			if down.IsZero() || w.now.Before(down.Add(after)) {
				w.t.Fatalf("given up at %s, down since %s", w.now, down)
			}
		case (a.Cause == v1alpha1.DrainCauseDeleted) != w.pool.Deleting:
			w.t.Fatalf("cause %s, pool deleting %v", a.Cause, w.pool.Deleting)
		case limit == v1alpha1.HeldDrain && (!w.pool.Hold || w.pool.Deleting):
			w.t.Fatalf("held, hold %v, deleting %v", w.pool.Hold, w.pool.Deleting)
		case limit != v1alpha1.HeldDrain && g.Drain == nil && limit != g.DrainTimeout:
			w.t.Fatalf("deadline after %s", limit)
		case g.Drain == nil && a.Cause == v1alpha1.DrainCauseNodeDrained && !w.nodes[g.Node.Name].Cordoned:
			w.t.Fatalf("node %s is not cordoned", g.Node.Name)
		}
		g.Drain = &Drain{Started: a.Started, Deadline: a.Deadline, Cause: a.Cause, Held: a.Deadline.Sub(a.Started) >= v1alpha1.HeldDrain}
	})
}

func (w *world) edit(uid types.UID, change func(*Group)) {
	for i := range w.groups {
		if w.groups[i].UID == uid {
			change(&w.groups[i])
		}
	}
}

// happen lets one thing happen that is not the planner's doing.
func (w *world) happen() {
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 15).Draw(w.t, "seconds")) * time.Second)
	w.happenToNode()
	switch rapid.SampledFrom([]string{"ready", "unready", "drained", "deleted", "gone", "spec", "live", "drift", "lost", "asked", "hold", "long"}).Draw(w.t, "event") {
	case "asked":
		w.pool.DrainAsked = !w.pool.DrainAsked
	case "hold":
		w.pool.Hold = !w.pool.Hold
	case "long":
		w.now = w.now.Add(after)
	case "ready":
		w.each(w.becomeReady)
	case "unready":
		w.each(func(g *Group) { g.Reachable, g.Drained = false, false })
	case "drained":
		w.each(func(g *Group) { g.Drained = g.Drain != nil && g.Reachable })
	case "deleted":
		w.each(func(g *Group) { g.Deleting = true })
	case "gone":
		w.remove(false)
	case "spec":
		w.pool.Revision = fmt.Sprint("r", rapid.IntRange(0, 2).Draw(w.t, "revision"))
	case "live":
		w.each(func(g *Group) { g.Matching = false })
	case "drift":
		w.hit(Different)
	case "lost":
		w.hit(Missing)
	}
}

func (w *world) hit(state State) {
	kind := rapid.SampledFrom(kinds).Draw(w.t, "kind")
	if w.children[kind] == Matching {
		w.children[kind] = state
		if kind == Role && state == Missing {
			w.role = nil
		}
	}
}

func (w *world) each(change func(*Group)) {
	for i := range w.groups {
		change(&w.groups[i])
	}
}

// happenToNode lets one thing happen to a node, half of the times.
func (w *world) happenToNode() {
	node := w.nodes[rapid.SampledFrom([]string{"n1", "n2"}).Draw(w.t, "node")]
	switch rapid.SampledFrom([]string{"", "", "", "cordon", "down", "up"}).Draw(w.t, "node event") {
	case "cordon":
		node.Cordoned = !node.Cordoned
	case "down":
		if node.DownSince.IsZero() {
			node.DownSince = w.now
		}
		w.each(func(g *Group) {
			if g.Node.Name == node.Name {
				g.Reachable, g.Drained = false, false
			}
		})
	case "up":
		node.DownSince = time.Time{}
	}
}

func (w *world) becomeReady(g *Group) {
	if w.nodes[g.Node.Name].DownSince.IsZero() {
		g.Reachable, g.Serving = true, !g.lost()
	}
}

// remove lets groups that are deleted go: not those on a node that is down, unless they are forced.
func (w *world) remove(forced bool) {
	w.groups = slices.DeleteFunc(w.groups, func(g Group) bool {
		return g.Deleting && (forced || w.nodes[g.Node.Name].DownSince.IsZero())
	})
}

// settle plays well-behaved groups and a clock until the planner has nothing to do.
func (w *world) settle() {
	for range 200 {
		p := Decide(w.input())
		w.apply(p)
		if w.released {
			return
		}
		before := len(w.groups)
		w.remove(w.pool.Deleting)
		busy := len(p.Actions) > 0 || len(w.groups) != before
		serving := 0
		w.each(func(g *Group) {
			if g.lost() && g.Serving {
				g.Serving, busy = false, true
			}
			if well := w.nodes[g.Node.Name].DownSince.IsZero(); (g.Drain == nil || g.Drain.Held) && !g.Deleting && !g.Reachable && well {
				w.becomeReady(g)
				busy = true
			}
			if g.Drain != nil && g.Drain.Held && g.Reachable && !g.Drained {
				g.Drained, busy = true, true
			}
			if g.Serving {
				serving++
			}
		})
		if serving > 1 {
			w.t.Fatalf("%d groups serve: %+v", serving, w.groups)
		}
		if busy {
			continue
		}
		if p.Again.IsZero() {
			return
		}
		if !p.Again.After(w.now) {
			w.t.Fatalf("looks again at %s, which is not after now %s, without doing anything", p.Again, w.now)
		}
		w.now = p.Again
	}
	w.t.Fatalf("never at rest: %+v", w.groups)
}

// Whatever happens, a pool that is kept ends with one group of its revision, and one that is deleted ends with nothing.
func TestConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			w.apply(Decide(w.input()))
			w.happen()
		}
		w.pool.Deleting = rapid.Bool().Draw(t, "deleting")
		w.settle()
		if w.pool.Deleting {
			if len(w.groups) > 0 || (w.pool.Finalizer && (!w.released || w.left() > 0)) {
				t.Fatalf("after deletion: groups %+v, children %v, released %v", w.groups, w.children, w.released)
			}
			return
		}
		kept := slices.DeleteFunc(slices.Clone(w.groups), func(g Group) bool { return g.fenced() })
		if w.pool.DrainAsked {
			if len(kept) > 0 {
				t.Fatalf("drained, with groups %+v", kept)
			}
			return
		}
		if len(kept) != 1 {
			t.Fatalf("at rest with groups %+v", kept)
		}
		g := kept[0]
		var names []string
		for _, g := range w.groups {
			names = append(names, g.Name)
		}
		slices.Sort(names)
		if n := w.nodes[g.Node.Name]; n.Cordoned || !n.DownSince.IsZero() {
			t.Fatalf("at rest on node %+v", *n)
		}
		if g.Revision != w.pool.Revision || g.Deleting || g.Drain != nil || !g.Matching || !slices.Equal(w.role, names) {
			t.Fatalf("at rest: %+v, role for %v", g, w.role)
		}
	})
}

// Two groups of one revision cannot come to be; if they do, the older one stays and the other is drained.
func TestSurplusGroupEnds(t *testing.T) {
	in := Input{Now: begin, Pool: Pool{Finalizer: true, Revision: "r"}, GroupName: func(n int) string { return name("r", n) }, Groups: []Group{
		{Name: "p-r-1", UID: "b", Revision: "r", Ordinal: 1, Reachable: true, Matching: true},
		{Name: "p-r-0", UID: "a", Revision: "r", Ordinal: 0, Reachable: true, Matching: true},
	}}
	p := Decide(in)
	if len(p.Actions) != 1 || p.Actions[0].(DrainGroup).Group.UID != "b" {
		t.Errorf("%+v", p.Actions)
	}
}

// A name that another owner holds stops everything until it is free.
func TestTakenWaits(t *testing.T) {
	in := Input{Now: begin, Pool: Pool{Finalizer: true, Revision: "r"}, Children: []Child{{Kind: Service, State: Taken, UID: "x"}}, GroupName: func(n int) string { return name("r", n) }}
	if p := Decide(in); len(p.Actions) != 0 || !p.Again.Equal(begin.Add(TakenRetry)) {
		t.Errorf("%+v", p)
	}
	in.Pool.Deleting = true
	if p := Decide(in); len(p.Actions) != 1 || p.Actions[0] != (Release{Reason: "nothing is left"}) {
		t.Errorf("deletion leaves it alone: %+v", p.Actions)
	}
}

// Pods whose group is gone are deleted, and hold the pool until they are.
func TestOrphans(t *testing.T) {
	in := Input{Now: begin, Pool: Pool{Finalizer: true, Deleting: true}, Orphans: []Pod{{Name: "o", UID: "o"}}}
	if p := Decide(in); len(p.Actions) != 1 || p.Actions[0].(DeletePod).Pod.UID != "o" {
		t.Errorf("%+v", p.Actions)
	}
	in.Orphans[0].Terminating = true
	if p := Decide(in); len(p.Actions) != 0 || !p.Again.Equal(begin.Add(OrphanRetry)) {
		t.Errorf("while it ends: %+v", p)
	}
}
