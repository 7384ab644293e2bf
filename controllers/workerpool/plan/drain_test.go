package plan

import (
	"fmt"
	"testing"
	"time"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// one is a pool at rest with one group that serves on node n.
func one(edits ...func(*Input)) Input {
	in := Input{
		Now: begin, Pool: Pool{Finalizer: true, Revision: "r", FailoverAfter: time.Minute, UsedOrdinals: map[int]bool{0: true}, RoleGroups: []string{"p-r-0"}},
		Groups: []Group{{Name: "p-r-0", UID: "a", Revision: "r", Reachable: true, Matching: true, Serving: true, Runs: true,
			DrainTimeout: 30 * time.Second, Node: Node{Name: "n"}}},
		GroupName: func(n int) string { return name("r", n) },
	}
	for _, edit := range edits {
		edit(&in)
	}
	return in
}

func group(edit func(*Group)) func(*Input) { return func(in *Input) { edit(&in.Groups[0]) } }
func pool(edit func(*Pool)) func(*Input)   { return func(in *Input) { edit(&in.Pool) } }
func at(d time.Duration) func(*Input)      { return func(in *Input) { in.Now = begin.Add(d) } }

func cordoned(g *Group)    { g.Node.Cordoned = true }
func down(g *Group)        { g.Node.DownSince, g.Reachable = begin, false }
func hold(p *Pool)         { p.Hold = true }
func deletingPool(p *Pool) { p.Deleting = true }
func drains(cause string, limit time.Duration) func(*Group) {
	return func(g *Group) {
		g.Drain = &Drain{Started: begin, Deadline: begin.Add(limit), Cause: cause, Held: limit == v1alpha1.HeldDrain}
	}
}

// story is what a plan does, and when it looks again, in words.
func story(p Plan) string {
	text := ""
	for _, action := range p.Actions {
		switch a := action.(type) {
		case DrainGroup:
			text += fmt.Sprintf("drain %s %s..%s ", a.Cause, a.Started.Sub(begin), a.Deadline.Sub(begin))
		case DeleteGroup:
			text += fmt.Sprintf("delete late=%v ", a.Late)
		case CreateGroup:
			text += fmt.Sprintf("create %d ", a.Ordinal)
		case EnsureChild:
		default:
			text += fmt.Sprintf("%T ", a)
		}
	}
	if !p.Again.IsZero() {
		text += "again " + p.Again.Sub(begin).String()
	}
	return text
}

func TestNodesAndDrains(t *testing.T) {
	const limit, second = 30 * time.Second, time.Second
	held := drains(v1alpha1.DrainCauseNodeDrained, v1alpha1.HeldDrain)
	for _, c := range []struct {
		name string
		in   Input
		want string
	}{
		{"at rest", one(), ""},
		{"cordoned", one(group(cordoned)), "drain NodeDrained 0s..30s "},
		{"cordoned, nothing runs yet", one(group(cordoned), group(func(g *Group) { g.Reachable = false })), "delete late=false "},
		{"cordoned and down: waits for the node", one(group(cordoned), group(down)), "again 1m0s"},
		{"uncordoned: the drain keeps to its mark", one(group(drains(v1alpha1.DrainCauseNodeDrained, limit)), at(second)), "again 30s"},
		{"deadline", one(group(drains(v1alpha1.DrainCauseNodeDrained, limit)), at(limit)), "delete late=true "},
		{"down for less than failover.after", one(group(down), at(59*second)), "again 1m0s"},
		{"down for failover.after", one(group(down), at(60*second)), "drain NodeLost 1m0s..1m0s "},
		{"down for failover.after, and no other node is well", one(group(down), group(func(g *Group) { g.Node.Alone = true }), at(70*second)), "again 1m20s"},
		{"back in time", one(at(60 * second)), ""},
		{"lost: deleted", one(group(down), group(drains(v1alpha1.DrainCauseNodeLost, 0))), "delete late=false "},
		{"lost and deleted, the Service leads there still", one(group(drains(v1alpha1.DrainCauseNodeLost, 0)), group(func(g *Group) { g.Deleting = true })), ""},
		{"lost, deleted and out of the Service: the successor", one(group(drains(v1alpha1.DrainCauseNodeLost, 0)), group(func(g *Group) { g.Deleting, g.Serving = true, false })), "create 1 "},
		{"lost, of a pool that is drained", one(pool(func(p *Pool) { p.DrainAsked = true }), group(drains(v1alpha1.DrainCauseNodeLost, 0)), group(func(g *Group) { g.Deleting, g.Serving = true, false })), ""},
		{"draining on a node that goes down: sessions may come back", one(group(down), group(drains(v1alpha1.DrainCauseReplaced, limit)), at(second)), "again 30s"},
		{"drains, and its node is lost: no longer deadline", one(group(down), group(drains(v1alpha1.DrainCauseReplaced, time.Hour)), at(60*second)), "drain NodeLost 0s..1m0s "},
		{"deleted, and its node is lost: the successor does not wait", one(group(down), group(func(g *Group) { g.Deleting = true }), at(60*second)), "drain NodeLost 1m0s..1m0s "},
		{"annotation", one(pool(func(p *Pool) { p.DrainAsked = true })), "drain Requested 0s..30s "},
		{"annotation, drained", one(pool(func(p *Pool) { p.DrainAsked = true }), func(in *Input) { in.Groups = nil }), ""},
		{"hold", one(group(cordoned), pool(hold)), "drain NodeDrained 0s..8760h0m0s "},
		{"held, before the deadline", one(group(held), pool(hold), at(second)), "again 30s"},
		{"held, after the deadline", one(group(held), pool(hold), at(time.Hour)), ""},
		{"held, its router silent for a moment", one(group(held), group(func(g *Group) { g.Reachable = false }), pool(hold), at(time.Hour)), ""},
		{"held, its pod gone", one(group(held), group(func(g *Group) { g.Reachable, g.Runs = false, false }), pool(hold), at(time.Hour)), "delete late=false "},
		{"held, nothing left", one(group(held), group(func(g *Group) { g.Drained = true }), pool(hold), at(time.Hour)), "delete late=false "},
		{"held, then Terminate in time", one(group(held), at(second)), "drain NodeDrained 0s..30s "},
		{"held, then Terminate after the deadline", one(group(held), at(time.Hour)), "drain NodeDrained 0s..1h0m0s "},
		{"held, then the pool is deleted", one(group(held), pool(hold), pool(deletingPool), at(time.Hour)), "drain Deleted 1h0m0s..1h0m30s "},
		{"held, its node lost", one(group(held), group(down), pool(hold), at(time.Hour)), "drain NodeLost 0s..1h0m0s "},
		{"hold does not count for the pool's own end", one(pool(hold), pool(deletingPool)), "drain Deleted 0s..30s "},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := story(Decide(c.in)); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
