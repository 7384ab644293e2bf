package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/snakepit-k8s/snakepit/api/rpc/v1alpha1"
	"github.com/snakepit-k8s/snakepit/hack/bench/load"
	"github.com/snakepit-k8s/snakepit/hack/bench/report"
	"github.com/snakepit-k8s/snakepit/hack/bench/system"
)

// entry is one system in a cell and what is asked of it.
type entry struct {
	name string // in tables
	of   string // the system's name
	work load.Work
}

// cell is one kind of load.
type cell struct {
	id, title   string
	outstanding int
	// paced makes it an open loop at half of what the best plain server reached in the cell named.
	paced   string
	entries []entry
}

// group is a set of systems that live at the same time, and the cells that are measured with them.
type group struct {
	title   string
	workers int
	systems map[string]starter
	cells   []cell
}

type starter func(ctx context.Context, name string) (*system.System, error)

const (
	kib = 1 << 10
	mib = 1 << 20
	// callers of the open loop: more than it ever needs at half load.
	callers = 256
	// The adapters of hack/bench/servers.
	serviceAdapter, toolsAdapter = "bench_service:server", "bench_tools:Tools"
)

// payload is a bench.Payload as bytes.
func payload(size int) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), bytes.Repeat([]byte{'x'}, size))
}

func unary(size int) load.Work {
	return load.Work{Method: "/bench.Echo/Unary", Request: payload(size), Answer: payload(size)}
}

func chunks(size, count int) load.Work {
	return load.Work{Method: "/bench.Echo/Chunks", Request: payload(size), Answer: payload(size), Answers: count}
}

func sessions(prefix string) load.Work {
	w := unary(kib)
	w.Sessions = prefix
	return w
}

// tool is the echo by the generic API.
func tool(size int) (load.Work, error) {
	value := &rpcv1.Value{Kind: &rpcv1.Value_Data{Data: bytes.Repeat([]byte{'x'}, size)}}
	request, err := proto.Marshal(&rpcv1.ExecuteRequest{Tool: "echo", Arguments: map[string]*rpcv1.Value{"payload": value}})
	if err != nil {
		return load.Work{}, err
	}
	answer, err := proto.Marshal(&rpcv1.ExecuteResponse{Outcome: &rpcv1.ExecuteResponse_Result{Result: value}})
	return load.Work{Method: "/snakepit.v1alpha1.Pool/Execute", Request: request, Answer: answer}, err
}

// each asks the same of several systems.
func each(work load.Work, systems ...string) []entry {
	entries := make([]entry, len(systems))
	for i, s := range systems {
		entries[i] = entry{s, s, work}
	}
	return entries
}

// trees are the checkouts that are measured; baseline is nil without one.
type trees struct {
	ours     system.Tree
	baseline *system.Tree
}

// plan says what is measured. A quick run leaves out what needs a second set of systems.
func plan(t trees, quick bool) ([]group, error) {
	groups := []group{single(t.ours)}
	if !quick {
		groups = append(groups, pair(t.ours))
	}
	generic, err := generic(t)
	return append(groups, generic), err
}

func single(t system.Tree) group {
	versus := append([]string{report.OursName}, report.Direct...)
	floor := append(slices.Clone(versus), report.FloorName)
	again := func(ctx context.Context, name string) (*system.System, error) {
		return system.Plain(ctx, t, name, "sync", 1, 1)
	}
	systems := plain(t, 1)
	systems[report.OursName] = ours(t, serviceAdapter, 1)
	systems[report.AgainName] = again
	systems[report.FloorName] = func(ctx context.Context, name string) (*system.System, error) { return system.Floor(ctx, name) }
	return group{title: "1 Python process", workers: 1, systems: systems, cells: []cell{
		{id: "again-8", title: "the method: a system against itself, 1 KiB, 8 outstanding", outstanding: 8,
			entries: each(unary(kib), report.SyncName, report.AgainName)},
		{id: "unary-1", title: "1 KiB unary, 1 outstanding", outstanding: 1, entries: each(unary(kib), floor...)},
		{id: "unary-8", title: "1 KiB unary, 8 outstanding", outstanding: 8, entries: each(unary(kib), floor...)},
		{id: "unary-64", title: "1 KiB unary, 64 outstanding", outstanding: 64, entries: each(unary(kib), floor...)},
		{id: "open", title: "1 KiB unary, open loop", outstanding: callers, paced: "unary-8", entries: each(unary(kib), versus...)},
		{id: "mib-8", title: "1 MiB unary, 8 outstanding", outstanding: 8, entries: each(unary(mib), versus...)},
		{id: "chunks-8", title: "stream of ten 1 KiB messages, 8 outstanding", outstanding: 8, entries: each(chunks(kib, 10), versus...)},
		sessionCell(8), sessionCell(64),
	}}
}

func sessionCell(outstanding int) cell {
	id := fmt.Sprintf("session-%d", outstanding)
	return cell{id: id, title: fmt.Sprintf("1 KiB unary with and without a session a caller, %d outstanding", outstanding), outstanding: outstanding,
		entries: []entry{{report.OursName, report.OursName, unary(kib)}, {report.SessionName, report.OursName, sessions(id + "-")}}}
}

func pair(t system.Tree) group {
	versus := append([]string{report.OursName}, report.Direct...)
	systems := plain(t, 2)
	systems[report.OursName] = ours(t, serviceAdapter, 2)
	return group{title: "2 Python processes", workers: 2, systems: systems, cells: []cell{
		{id: "unary-8-2p", title: "1 KiB unary, 8 outstanding, 2 processes", outstanding: 8, entries: each(unary(kib), versus...)},
		{id: "unary-64-2p", title: "1 KiB unary, 64 outstanding, 2 processes", outstanding: 64, entries: each(unary(kib), versus...)},
	}}
}

func generic(t trees) (group, error) {
	echo, err := tool(kib)
	if err != nil {
		return group{}, err
	}
	g := group{title: "the generic API, 1 Python process", workers: 1, systems: map[string]starter{
		report.ToolsName: ours(t.ours, toolsAdapter, 1),
		report.SyncName:  plain(t.ours, 1)[report.SyncName],
	}}
	versus := []string{report.ToolsName}
	if t.baseline != nil {
		g.systems[report.BaselineName] = ours(*t.baseline, toolsAdapter, 1)
		versus = append(versus, report.BaselineName)
	}
	for _, outstanding := range []int{8, 64} {
		g.cells = append(g.cells, cell{
			id: fmt.Sprintf("tools-%d", outstanding), title: fmt.Sprintf("1 KiB by the generic API, %d outstanding", outstanding),
			outstanding: outstanding, entries: append(each(echo, versus...), each(unary(kib), report.SyncName)...),
		})
	}
	return g, nil
}

func ours(t system.Tree, adapter string, workers int) starter {
	return func(ctx context.Context, name string) (*system.System, error) {
		return system.Routed{Adapter: adapter, Workers: workers}.Start(ctx, t, name)
	}
}

func plain(t system.Tree, count int) map[string]starter {
	mode := func(mode string, threads int) starter {
		return func(ctx context.Context, name string) (*system.System, error) {
			return system.Plain(ctx, t, name, mode, threads, count)
		}
	}
	return map[string]starter{report.SyncName: mode("sync", 1), report.ThreadsName: mode("sync", 16), report.AsyncName: mode("aio", 0)}
}

// chosen keeps the cells whose id begins with one of some prefixes, and the systems that they need.
func chosen(groups []group, prefixes string) ([]group, error) {
	var kept []group
	for _, g := range groups {
		g.cells = slices.DeleteFunc(g.cells, func(c cell) bool {
			return !slices.ContainsFunc(strings.Split(prefixes, ","), func(p string) bool { return strings.HasPrefix(c.id, p) })
		})
		needed := map[string]starter{}
		for _, c := range g.cells {
			for _, e := range c.entries {
				needed[e.of] = g.systems[e.of]
			}
		}
		if g.systems = needed; len(g.cells) > 0 {
			kept = append(kept, g)
		}
	}
	if len(kept) == 0 {
		return nil, fmt.Errorf("--only %q leaves no cell", prefixes)
	}
	return kept, nil
}
