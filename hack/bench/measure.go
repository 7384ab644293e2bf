package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/snakepit-k8s/snakepit/hack/bench/load"
	"github.com/snakepit-k8s/snakepit/hack/bench/meter"
	"github.com/snakepit-k8s/snakepit/hack/bench/report"
	"github.com/snakepit-k8s/snakepit/hack/bench/system"
)

const (
	// warm is the part of each loop that is not measured.
	warm = 400 * time.Millisecond
	// between is what a measurement takes beside its loop: reading /proc, connecting.
	between = 150 * time.Millisecond
	// shortest and longest window of one measurement.
	shortest, longest = 250 * time.Millisecond, 5 * time.Second
	// reserve of the budget for what is not loops: builds, starts, Go benchmarks, worker life.
	reserve, quickReserve = 200 * time.Second, 50 * time.Second
	seed                  = 1
)

// session is a run of the program.
type session struct {
	options options
	window  time.Duration
	result  *report.Result
}

// measure does everything. What cannot be measured is named in the result; an error means that nothing could be.
func measure(ctx context.Context, o options) (result *report.Result, err error) {
	t, clean, err := prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, clean()) }()
	groups, err := plan(t, o.quick)
	if err != nil {
		return nil, err
	}
	if o.only != "" {
		if groups, err = chosen(groups, o.only); err != nil {
			return nil, err
		}
	}
	s := &session{options: o, window: windowOf(groups, o), result: &report.Result{Seed: seed, Command: commandOf(o)}}
	if err := s.about(ctx); err != nil {
		return nil, err
	}
	for _, g := range groups {
		s.group(ctx, g)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	if o.only == "" {
		s.others(ctx)
	}
	return s.result, ctx.Err()
}

func commandOf(o options) string {
	if o.baseline != "" {
		return "make bench BASELINE=" + o.baseline
	}
	return "make bench"
}

// windowOf spreads the budget over all measurements.
func windowOf(groups []group, o options) time.Duration {
	count := 0
	for _, g := range groups {
		for _, c := range g.cells {
			count += len(c.entries) * o.repeats
		}
	}
	kept := reserve
	if o.quick {
		kept = quickReserve
	}
	if o.only != "" {
		kept = 0
	}
	each := (o.budget-kept)/time.Duration(count) - warm - between
	return min(max(each.Round(10*time.Millisecond), shortest), longest)
}

// prepare builds what is measured in a folder that clean removes.
func prepare(ctx context.Context, o options) (t trees, clean func() error, err error) {
	root, err := os.Getwd()
	if err != nil {
		return t, nil, err
	}
	if _, err := os.Stat(o.python); err != nil {
		return t, nil, fmt.Errorf("no Python at %s: run make venv in the repository, and this from there", o.python)
	}
	folder, err := os.MkdirTemp("", "spb")
	if err != nil {
		return t, nil, err
	}
	clean = func() error { return os.RemoveAll(folder) }
	t.ours = system.Tree{Root: root, Router: filepath.Join(folder, "router"), Servers: filepath.Join(root, "hack", "bench", "servers"), Python: o.python}
	progress("building the router")
	if err := system.Build(ctx, root, t.ours.Router); err != nil {
		return t, nil, errors.Join(err, clean())
	}
	if o.baseline == "" {
		return t, clean, nil
	}
	progress("building the router of %s", o.baseline)
	older := t.ours
	older.Root, older.Router = filepath.Join(folder, "baseline"), filepath.Join(folder, "baseline-router")
	remove, err := system.Checkout(ctx, root, older.Root, o.baseline)
	if err != nil {
		return t, nil, errors.Join(err, clean())
	}
	clean = func() error { return errors.Join(remove(), os.RemoveAll(folder)) }
	if err := system.Build(ctx, older.Root, older.Router); err != nil {
		return t, nil, errors.Join(err, clean())
	}
	t.baseline = &older
	return t, clean, nil
}

// missing notes what could not be measured.
func (s *session) missing(what string, err error) {
	progress("%s: %v", what, err)
	s.result.Missing = append(s.result.Missing, what+": "+err.Error())
}

// group starts its systems, measures its cells and ends the systems.
func (s *session) group(ctx context.Context, g group) {
	running := map[string]*system.System{}
	defer func() {
		for _, one := range running {
			if err := one.Stop(); err != nil {
				s.missing("end of "+g.title, err)
			}
		}
	}()
	progress("%s: starting %d systems", g.title, len(g.systems))
	for name, start := range g.systems {
		one, err := start(ctx, name)
		if err != nil {
			s.missing(g.title+": "+name, err)
			continue
		}
		running[name] = one
	}
	for _, c := range g.cells {
		if ctx.Err() != nil {
			return
		}
		if err := s.cell(ctx, g, c, running); err != nil {
			s.missing(c.title, err)
		}
	}
}

// cell measures each system in turn, as often as there are repeats; each repeat begins with another one.
func (s *session) cell(ctx context.Context, g group, c cell, running map[string]*system.System) error {
	c.entries = slices.DeleteFunc(slices.Clone(c.entries), func(e entry) bool { return running[e.of] == nil })
	if len(c.entries) == 0 {
		return nil // why its systems do not run has been told
	}
	told := report.Cell{ID: c.id, Title: c.title, Workers: g.workers, Outstanding: c.outstanding}
	if c.paced != "" {
		if told.Rate = s.rate(c.paced); told.Rate == 0 {
			return fmt.Errorf("its rate follows from %s, which has not been measured", c.paced)
		}
		told.Title = fmt.Sprintf("%s at %.0f calls/s", c.title, told.Rate)
	}
	targets := make([]*load.Target, len(c.entries))
	for i, e := range c.entries {
		told.Systems = append(told.Systems, e.name)
		target, err := load.Dial(spread(running[e.of].Addresses, g.workers), e.work, c.outstanding)
		if err != nil {
			return err
		}
		defer target.Close()
		if err := target.Open(ctx); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		targets[i] = target
	}
	for repeat := range s.options.repeats {
		measures := make([]report.Measure, len(c.entries))
		for n := range c.entries {
			i := (n + repeat) % len(c.entries)
			m, err := s.one(ctx, running[c.entries[i].of], targets[i], told.Rate, uint64(repeat))
			if err != nil {
				return fmt.Errorf("%s: %w", c.entries[i].name, err)
			}
			m.System, measures[i] = c.entries[i].name, m
		}
		told.Repeats = append(told.Repeats, measures)
	}
	s.result.Cells = append(s.result.Cells, told)
	progress("%s", summary(&told))
	return nil
}

// spread gives every system as many connections as there are Python processes: a plain server needs one to each.
func spread(addresses []string, count int) []string {
	all := slices.Clone(addresses)
	for i := 0; len(all) < count; i++ {
		all = append(all, addresses[i%len(addresses)])
	}
	return all
}

// rate of the open loop: half of what the best plain server reached, so that no system is overloaded.
func (s *session) rate(id string) float64 {
	c := s.result.Cell(id)
	if c == nil {
		return 0
	}
	half := c.Of(c.Best(report.Direct, report.Throughput, true), report.Throughput).Median / 2
	return float64(int(half/100) * 100)
}

// one measurement.
func (s *session) one(ctx context.Context, of *system.System, target *load.Target, rate float64, repeat uint64) (report.Measure, error) {
	var m meter.Meter
	var sample load.Sample
	var err error
	if rate > 0 {
		sample, err = target.Paced(ctx, rate, seed+repeat, warm, s.window, m.Probe(of))
	} else {
		sample, err = target.Closed(ctx, warm, s.window, m.Probe(of))
	}
	if err != nil {
		return report.Measure{}, err
	}
	return m.Measure(of, sample)
}

func summary(c *report.Cell) string {
	parts := make([]string, len(c.Systems))
	for i, name := range c.Systems {
		parts[i] = fmt.Sprintf("%s %.0f/s", name, c.Of(name, report.Throughput).Median)
	}
	return c.Title + ": " + strings.Join(parts, ", ")
}
