package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/snakepit-k8s/snakepit/hack/bench/load"
	"github.com/snakepit-k8s/snakepit/hack/bench/meter"
	"github.com/snakepit-k8s/snakepit/hack/bench/report"
)

const (
	warm = time.Second
	// settle is the pause between a system's recovery and the next kill: longer than the 10 s within which a second death of a worker counts as
	// a crash loop, which our supervisor slows down.
	settle = 11 * time.Second
	// spacing of the calls that look for the first good answer; one that is not answered within unanswered counts as lost.
	spacing, unanswered = 5 * time.Millisecond, 5 * time.Second
	recoveryLimit       = 2 * time.Minute
)

// row is one line of the table.
type row struct {
	name     string
	loops    map[int]report.Measure
	recovery []float64 // ms
	failed   []float64 // calls that failed or were not answered, for each kill
}

func (s subject) measure(ctx context.Context, o options) (found row, err error) {
	found = row{name: s.name, loops: map[int]report.Measure{}}
	running, err := s.start(ctx)
	if err != nil {
		return found, err
	}
	defer func() {
		if problem := running.Stop(); problem != nil { // all is ended, if not in order: that is told, and no reason to measure again
			fmt.Fprintln(os.Stderr, "peers:", problem)
		}
	}()
	c, err := s.dial(running.Addresses[0])
	if err != nil {
		return found, err
	}
	defer c.close()
	if err := firstAnswer(ctx, c); err != nil {
		return found, err
	}
	for _, outstanding := range []int{1, 8, 64} {
		var m meter.Meter
		sample, err := load.Closed(ctx, outstanding, func(ctx context.Context, _ int) error { return c.echo(ctx) }, warm, o.window, m.Probe(running))
		if err != nil {
			return found, fmt.Errorf("%d outstanding: %w", outstanding, err)
		}
		if found.loops[outstanding], err = m.Measure(running, sample); err != nil {
			return found, err
		}
	}
	for range o.kills {
		took, failed, err := recovery(ctx, c)
		if err != nil {
			return found, err
		}
		found.recovery, found.failed = append(found.recovery, took.Seconds()*1000), append(found.failed, float64(failed))
		select {
		case <-time.After(settle):
		case <-ctx.Done():
			return found, ctx.Err()
		}
	}
	return found, nil
}

// recovery kills the process that serves and calls until one of the calls that began afterwards is answered well. It returns how long that took from
// the kill on, and how many of the calls that had begun until then failed or got no answer.
func recovery(ctx context.Context, c caller) (time.Duration, int, error) {
	ctx, cancel := context.WithTimeout(ctx, recoveryLimit)
	defer cancel()
	pid, err := c.pid(ctx)
	if err != nil {
		return 0, 0, err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, 0, fmt.Errorf("process %d that serves: %w", pid, err)
	}
	began := time.Now()
	var (
		group  sync.WaitGroup
		mu     sync.Mutex
		good   time.Duration
		failed int
	)
	room := make(chan struct{}, callers)
	ticker := time.NewTicker(spacing)
	defer ticker.Stop()
	answered := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return good > 0
	}
	for ctx.Err() == nil && !answered() {
		room <- struct{}{}
		group.Go(func() {
			defer func() { <-room }()
			call, cancel := context.WithTimeout(ctx, unanswered)
			defer cancel()
			err := c.echo(call)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				failed++
			case good == 0:
				good = time.Since(began)
			}
		})
		<-ticker.C
	}
	group.Wait()
	if good == 0 {
		return 0, failed, fmt.Errorf("no good answer within %s of the kill", recoveryLimit)
	}
	return good, failed, nil
}

// table for the page.
func table(rows []row) string {
	var text strings.Builder
	text.WriteString("| system | calls/s at 1 / 8 / 64 outstanding | p50 µs | p99 µs | server CPU µs a call | RSS (PSS) MiB | SIGKILL → next good answer, ms | calls that failed meanwhile (one begun every 5 ms) |\n")
	text.WriteString("|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		three := func(metric report.Metric) string {
			return fmt.Sprintf("%.0f / %.0f / %.0f", metric(r.loops[1]), metric(r.loops[8]), metric(r.loops[64]))
		}
		last := r.loops[64]
		took, failed := report.SpreadOf(r.recovery), report.SpreadOf(r.failed)
		fmt.Fprintf(&text, "| %s | %s | %s | %s | %s | %.0f (%.0f) | %.0f (%.0f–%.0f) | %.0f (%.0f–%.0f) |\n", r.name, three(report.Throughput),
			three(report.Median), three(func(m report.Measure) float64 { return m.P99 }), three(report.ServerCPU), last.RSS, last.PSS,
			took.Median, took.Low, took.High, failed.Median, failed.Low, failed.High)
	}
	return text.String()
}
