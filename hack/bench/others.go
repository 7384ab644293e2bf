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
	// The test ends with 1 when its bound is passed; what it saw is wanted all the same.
	path, failed := output(ctx, "go", "test", "-count=1", "-v", "-run", "^TestAllocationsOfACall$", "./router/upstream")
	figures, err := s.allocations(path)
	if err != nil {
		return nil, errors.Join(err, failed)
	}
	text, err := output(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkDispatch(Unary|Session)$", "-benchmem",
		"-benchtime", "20000x", "./router/dispatch")
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, text)
	}
	for _, kind := range []string{"Unary", "Session"} {
		allocs, ok := worst(parseBenchmarks(text), "Dispatch"+kind, "allocs/op")
		if !ok {
			return nil, fmt.Errorf("router/dispatch has no BenchmarkDispatch%s", kind)
		}
		name := fmt.Sprintf("allocations a call, dispatch alone, worst case (%s)", strings.ToLower(kind))
		figures = append(figures, s.told("B6", name, allocs, "allocs", allocsBound))
	}
	if text, err = output(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkSessionTable1M$", "-benchtime", "1x", "./router/session"); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, text)
	}
	size, ok := worst(parseBenchmarks(text), "SessionTable1M", "MiB")
	if !ok {
		return nil, errors.New("BenchmarkSessionTable1M reported no MiB")
	}
	return append(figures, s.told("B10", "1,000,000 sessions in the table", size, "MiB", tableBound)), nil
}

// worst of the cases of a benchmark.
func worst(found map[string]map[string]float64, name, unit string) (value float64, ok bool) {
	for each, values := range found {
		if v, has := values[unit]; has && (each == name || strings.HasPrefix(each, name+"/")) {
			value, ok = max(value, v), true
		}
	}
	return value, ok
}

var allocationLine = regexp.MustCompile(`session "(\w*)": (\S+) allocates ([0-9.]+) objects a call`)

// allocations sums what dispatch, session and bridge allocate in a call through the real path, as TestAllocationsOfACall tells it.
func (s *session) allocations(text string) ([]report.Figure, error) {
	if !strings.Contains(text, ": TestAllocationsOfACall (") { // PASS or FAIL
		return nil, fmt.Errorf("TestAllocationsOfACall of router/upstream did not run:\n%s", text)
	}
	sums := map[bool]float64{}
	for _, parts := range allocationLine.FindAllStringSubmatch(text, -1) {
		switch parts[2] { // and not bridge/fakeworker, which is the test's
		case "dispatch", "session", "bridge":
			each, err := strconv.ParseFloat(parts[3], 64)
			if err != nil {
				return nil, err
			}
			sums[parts[1] != ""] += each
		}
	}
	return []report.Figure{
		s.told("B6", "allocations a call in dispatch, session and bridge", sums[false], "allocs", allocsBound),
		s.told("B6", "allocations a call in dispatch, session and bridge, in a session", sums[true], "allocs", allocsBound),
	}, nil
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
