package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Names of the systems.
const (
	OursName     = "snakepit"
	ToolsName    = "snakepit, generic API"
	SyncName     = "grpcio sync, 1 thread"
	ThreadsName  = "grpcio sync, 16 threads"
	AsyncName    = "grpcio aio"
	AgainName    = "grpcio sync, 1 thread (again)"
	FloorName    = "grpc-go echo, no Python"
	BaselineName = "earlier commit, generic API"
	SessionName  = "snakepit, in sessions"
)

// Direct are the plain servers; the better one counts.
var Direct = []string{SyncName, ThreadsName, AsyncName}

const (
	// enoughRepeats and enoughCalls are what a figure needs to say something; one with less is void.
	enoughRepeats = 5
	enoughCalls   = 500
)

// rule makes one figure of one cell.
type rule struct {
	id, figure, cell string
	metric           Metric
	more             bool // more of the metric is better
	bound            string
	// of and to are the systems; to is the best of Direct when empty.
	of, to string
}

// rules are the figures of issue and design, each with what must be reached.
var rules = []rule{
	{id: "B1", figure: "throughput, routed / direct, 8 outstanding", cell: "unary-8", metric: Throughput, more: true, bound: ">=2.5", of: OursName},
	{id: "B1", figure: "throughput, routed / direct, 64 outstanding", cell: "unary-64", metric: Throughput, more: true, bound: ">=2.5", of: OursName},
	{id: "B1", figure: "throughput, routed / direct, 8 outstanding, 2 processes", cell: "unary-8-2p", metric: Throughput, more: true, bound: ">=2.5", of: OursName},
	{id: "B1", figure: "throughput, routed / direct, 64 outstanding, 2 processes", cell: "unary-64-2p", metric: Throughput, more: true, bound: ">=2.5", of: OursName},
	{id: "B2", figure: "throughput, routed / direct, 1 outstanding", cell: "unary-1", metric: Throughput, more: true, bound: ">=1.2", of: OursName},
	{id: "B3", figure: "p50, routed / direct, 8 outstanding", cell: "unary-8", metric: Median, bound: "<=0.5", of: OursName},
	{id: "B4", figure: "server CPU a call, routed / direct, 8 outstanding", cell: "unary-8", metric: ServerCPU, bound: "<=0.4", of: OursName},
	{id: "B4", figure: "server CPU a call, routed / direct, 64 outstanding", cell: "unary-64", metric: ServerCPU, bound: "<=0.4", of: OursName},
	{id: "B5", figure: "throughput, session / sessionless, 8 outstanding", cell: "session-8", metric: Throughput, more: true, bound: ">=0.95", of: SessionName, to: OursName},
	{id: "B5", figure: "throughput, session / sessionless, 64 outstanding", cell: "session-64", metric: Throughput, more: true, bound: ">=0.95", of: SessionName, to: OursName},
}

// Aims are what the design hopes for beyond the bounds.
var Aims = map[string]string{
	"B1": "≥ 4", "B2": "≥ 1.6", "B3": "≤ 0.3", "B4": "≤ 0.25", "B5": "1.0", "B6": "0", "B7": "≤ 10", "B8": "≤ 0.2", "B9": "≤ 1.5", "B10": "≤ 120",
}

// Figures of a result: those of its cells, then those that others told.
func (r *Result) Figures() []Figure {
	var figures []Figure
	for _, rule := range rules {
		cell := r.Cell(rule.cell)
		if cell == nil {
			continue
		}
		to := rule.to
		if to == "" {
			to = cell.Best(Direct, rule.metric, rule.more)
		}
		s := cell.Ratio(rule.of, to, rule.metric)
		if s.N == 0 {
			continue
		}
		f := Figure{
			ID: rule.id, Figure: rule.figure, Value: round(s.Median), Low: pointer(s.Low), High: pointer(s.High), Unit: "ratio", Bound: rule.bound,
			Runs: s.N, Seed: r.Seed, Commit: r.Commit, Command: r.Command, Void: cell.void(rule.of, to),
		}
		f.OK = !f.Void && Holds(f.Bound, f.Value)
		figures = append(figures, f)
	}
	return append(figures, r.Told...)
}

// void says that a cell has measured too little of the systems.
func (c *Cell) void(systems ...string) bool {
	if len(c.Repeats) < enoughRepeats {
		return true
	}
	for _, repeat := range c.Repeats {
		for i, m := range repeat {
			if slices.Contains(systems, c.Systems[i]) && m.Calls < enoughCalls {
				return true
			}
		}
	}
	return false
}

// Holds says whether a value keeps to a bound such as ">=2.5" or "<=4". Nothing keeps to a bound that is neither.
func Holds(bound string, value float64) bool {
	var limit float64
	sign, number := bound[:min(2, len(bound))], bound[min(2, len(bound)):]
	if _, err := fmt.Sscanf(strings.TrimSpace(number), "%g", &limit); err != nil {
		return false
	}
	switch sign {
	case ">=":
		return value >= limit
	case "<=":
		return value <= limit
	}
	return false
}

// round keeps three digits after the point: more would be noise.
func round(v float64) float64 { return math.Round(v*1000) / 1000 }

func pointer(v float64) *float64 {
	v = round(v)
	return &v
}

// Sort figures by the number in their id, then by name.
func Sort(figures []Figure) {
	number := func(id string) (n int) {
		_, _ = fmt.Sscanf(id, "B%d", &n) // 0 for other ids
		return n
	}
	slices.SortStableFunc(figures, func(a, b Figure) int {
		if d := number(a.ID) - number(b.ID); d != 0 {
			return d
		}
		return strings.Compare(a.Figure, b.Figure)
	})
}
