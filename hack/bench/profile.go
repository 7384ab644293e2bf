package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/snakepit-k8s/snakepit/hack/bench/load"
	"github.com/snakepit-k8s/snakepit/hack/bench/report"
	"github.com/snakepit-k8s/snakepit/hack/bench/system"
)

// profileTime is the length of each CPU profile.
const profileTime = 10 * time.Second

// profile says where the router's CPU time goes, at 8 and at 64 outstanding calls, and that of the workers where perf is at hand.
func profile(ctx context.Context, o options) (err error) {
	t, clean, err := prepare(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clean()) }()
	folder := filepath.Join(o.out, "bench")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	s, err := system.Routed{Adapter: o.adapter, Workers: 1, Pprof: true}.Start(ctx, t.ours, report.OursName)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	work := unary(o.size)
	if o.adapter == toolsAdapter {
		if work, err = tool(o.size); err != nil {
			return err
		}
	}
	var page strings.Builder
	for _, outstanding := range []int{8, 64} {
		path := filepath.Join(folder, fmt.Sprintf("router-%d.pprof", outstanding))
		perSecond, err := profiled(ctx, s, work, outstanding, path)
		if err != nil {
			return err
		}
		stacks, err := output(ctx, "go", "tool", "pprof", "-traces", t.ours.Router, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(&page, "%d outstanding, %.0f calls/s, the router's CPU time in µs a call:\n\n```text\n%s```\n\n",
			outstanding, perSecond, report.Profile(stacks, perSecond*profileTime.Seconds()))
		progress("for more: go tool pprof %s", path)
	}
	fmt.Print(page.String())
	if o.docs == "" {
		return nil
	}
	at, err := commit(ctx, "HEAD")
	if err != nil {
		return err
	}
	return report.Replace(o.docs, report.ProfilePart, fmt.Sprintf("\nCommit %s, `make bench-profile`.\n\n%s", at, page.String()))
}

// profiled drives the system, takes its profile meanwhile, and returns the calls a second.
func profiled(ctx context.Context, s *system.System, work load.Work, outstanding int, path string) (float64, error) {
	target, err := load.Dial(s.Addresses, work, outstanding)
	if err != nil {
		return 0, err
	}
	defer target.Close()
	if err := target.Open(ctx); err != nil {
		return 0, err
	}
	progress("profile at %d outstanding, %s", outstanding, profileTime)
	failed := make(chan error, 2)
	sample, err := target.Closed(ctx, warm, profileTime, func(begin bool) {
		if begin {
			go func() { failed <- fetch(ctx, s.Profiles, path) }()
			go func() { failed <- perf(ctx, s, path) }()
		}
	})
	return float64(len(sample.Latencies)) / max(sample.Window.Seconds(), 1e-9), errors.Join(err, <-failed, <-failed)
}

// fetch takes a CPU profile of the router.
func fetch(ctx context.Context, address, path string) error {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", address, int(profileTime.Seconds()))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.200q", url, response.Status, data)
	}
	return os.WriteFile(path, data, 0o644)
}

// perf samples the Python processes where the machine has perf, and prints the functions that used the most time.
func perf(ctx context.Context, s *system.System, path string) error {
	if _, err := exec.LookPath("perf"); err != nil {
		return nil
	}
	pids, err := s.Python()
	if err != nil {
		return err
	}
	texts := make([]string, len(pids))
	for i, pid := range pids {
		texts[i] = strconv.Itoa(pid)
	}
	file := strings.TrimSuffix(path, ".pprof") + "-python.perf"
	if _, err := output(ctx, "perf", "record", "-q", "-e", "cpu-clock", "-F", "999", "-o", file, "-p", strings.Join(texts, ","),
		"--", "sleep", strconv.Itoa(int(profileTime.Seconds()))); err != nil {
		return err
	}
	text, err := output(ctx, "perf", "report", "-i", file, "--stdio", "-F", "overhead,dso,sym", "--percent-limit", "1.5")
	if err != nil {
		return err
	}
	fmt.Println("\nPython processes, share of their CPU time:")
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\n "); line != "" && !strings.HasPrefix(line, "#") {
			fmt.Println(line)
		}
	}
	return nil
}
