package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/snakepit-k8s/snakepit/hack/bench/report"
)

const (
	allocsBound, tableBound = "<=2", "<=200"
	// lifeScript measures B7 to B9; it prints one figure a line.
	lifeScript = "hack/bench/workerlife.py"
	othersTime = 5 * time.Minute
)

// others measures what needs no caller: allocations, the session table, and the life of workers.
func (s *session) others(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, othersTime)
	defer cancel()
	for what, f := range map[string]func(context.Context) ([]report.Figure, error){
		"B6 and B10, Go benchmarks": s.goBenchmarks, "B7 to B9, worker life": s.workerLife,
	} {
		progress("%s", what)
		figures, err := f(ctx)
		if err != nil {
			s.missing(what, err)
			continue
		}
		s.result.Told = append(s.result.Told, figures...)
	}
	report.Sort(s.result.Told)
}

// goBenchmarks runs those of the data path.
func (s *session) goBenchmarks(ctx context.Context) ([]report.Figure, error) {
	calls, err := output(ctx, "go", "test", "-run", "^$", "-bench", "^Benchmark(Dispatch(Unary|Session)|Bridge.*)$", "-benchmem", "-benchtime", "20000x",
		"./router/dispatch", "./router/bridge")
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, calls)
	}
	figures, err := s.allocations(parseBenchmarks(calls))
	if err != nil {
		return nil, err
	}
	table, err := output(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkSessionTable1M$", "-benchtime", "1x", "./router/session", "./router/dispatch")
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, table)
	}
	for name, values := range parseBenchmarks(table) {
		if size, ok := values["MiB"]; ok && name == "SessionTable1M" {
			return append(figures, s.told("B10", "1,000,000 sessions in the table", size, "MiB", tableBound)), nil
		}
	}
	return nil, errors.New("BenchmarkSessionTable1M reported no MiB")
}

// allocations sums, for calls without and with a session, what dispatch and bridge allocate; of several cases of a benchmark the worst counts.
func (s *session) allocations(found map[string]map[string]float64) ([]report.Figure, error) {
	worst := func(prefix string) (allocs float64, ok bool) {
		for name, values := range found {
			if strings.HasPrefix(name, prefix) {
				allocs, ok = max(allocs, values["allocs/op"]), true
			}
		}
		return allocs, ok
	}
	bridge, ok := worst("Bridge")
	if !ok {
		return nil, errors.New("router/bridge has no benchmark whose name begins with BenchmarkBridge")
	}
	var figures []report.Figure
	for _, kind := range []string{"Unary", "Session"} {
		dispatch, ok := worst("Dispatch" + kind)
		if !ok {
			return nil, fmt.Errorf("router/dispatch has no BenchmarkDispatch%s", kind)
		}
		name := fmt.Sprintf("allocations a call, dispatch (%s) and bridge", strings.ToLower(kind))
		figures = append(figures, s.told("B6", name, dispatch+bridge, "allocs", allocsBound))
	}
	return figures, nil
}

func (s *session) told(id, name string, value float64, unit, bound string) report.Figure {
	return report.Figure{ID: id, Figure: name, Value: value, Unit: unit, Bound: bound, OK: report.Holds(bound, value), Runs: 1,
		Commit: s.result.Commit, Command: s.result.Command}
}

var benchmarkLine = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.*)$`)

// parseBenchmarks reads lines of go test -bench: for each benchmark its values by unit.
func parseBenchmarks(text string) map[string]map[string]float64 {
	found := map[string]map[string]float64{}
	for line := range strings.Lines(text) {
		parts := benchmarkLine.FindStringSubmatch(strings.TrimSpace(line))
		if parts == nil {
			continue
		}
		values, fields := map[string]float64{}, strings.Fields(parts[2])
		for i := 0; i+1 < len(fields); i += 2 {
			if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
				values[fields[i+1]] = v
			}
		}
		found[parts[1]] = values
	}
	return found
}

// workerLife runs the supervisor's own measurement.
func (s *session) workerLife(ctx context.Context) ([]report.Figure, error) {
	if _, err := os.Stat(lifeScript); err != nil {
		return nil, err
	}
	args := []string{lifeScript}
	if s.options.quick {
		args = append(args, "--workers", "20", "--calls", "100", "--runs", "1")
	}
	text, err := output(ctx, s.options.python, args...)
	if err != nil {
		return nil, err
	}
	var figures []report.Figure
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		var f report.Figure
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			return nil, fmt.Errorf("%s printed %.80q, which is no figure: %w", lifeScript, lines.Text(), err)
		}
		f.Commit = s.result.Commit
		figures = append(figures, f)
	}
	if len(figures) == 0 {
		return nil, fmt.Errorf("%s printed no figure", lifeScript)
	}
	return figures, nil
}
