package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Routed says how our side is run.
type Routed struct {
	// Adapter as module:object.
	Adapter string
	// Workers wanted.
	Workers int
	// Pprof makes the router serve its profiles, at System.Profiles.
	Pprof bool
}

// config of the router. Sessions are as strict as the default; there must be room for one a caller.
const config = "workers: %d\nadapter: %s\nsessions: {maxPerWorker: 256}\n"

// Start runs the tree's router and a supervisor with its workers, as in a pod but without containers. It returns when all workers are ready.
func (o Routed) Start(ctx context.Context, t Tree, name string) (*System, error) {
	dir, err := folder()
	if err != nil {
		return nil, err
	}
	s := &System{Name: name, folder: dir}
	if err := o.start(ctx, t, s); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (o Routed) start(ctx context.Context, t Tree, s *System) error {
	file, socket := filepath.Join(s.folder, "pool.yaml"), filepath.Join(s.folder, "b")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, o.Workers, o.Adapter), 0o600); err != nil {
		return err
	}
	args := []string{"--config", file, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--bridge-socket", socket,
		"--state-dir", s.folder}
	if o.Pprof {
		args = append(args, "--pprof-listen", "127.0.0.1:0")
	}
	router, err := start(s.folder, "router", nil, t.Router, args...)
	if err != nil {
		return err
	}
	s.router = []*child{router}
	if err := router.until(ctx, "it served", func() (bool, error) { return s.serving(router), nil }); err != nil {
		return err
	}
	supervisor, err := start(s.folder, "supervisor", t.environment(s.folder, "SNAKEPIT_BRIDGE="+socket, "SNAKEPIT_POD_UID=local",
		"SNAKEPIT_POD_NAME=local", "SNAKEPIT_DRAIN_TIMEOUT=4"), t.Python, "-m", "snakepit.supervisor", o.Adapter)
	if err != nil {
		return err
	}
	s.workers = []*child{supervisor}
	return supervisor.until(ctx, fmt.Sprintf("%d workers were ready", o.Workers), func() (bool, error) { return ready(ctx, s.Admin, o.Workers) })
}

var (
	callersLine = regexp.MustCompile(`"callers":"(127\.0\.0\.1:\d+)"`)
	adminLine   = regexp.MustCompile(`"admin":"(127\.0\.0\.1:\d+)"`)
	pprofLine   = regexp.MustCompile(`"pprof":"(127\.0\.0\.1:\d+)"`)
)

// serving reads the addresses from the router's log.
func (s *System) serving(router *child) bool {
	text := router.output()
	callers, admin := callersLine.FindStringSubmatch(text), adminLine.FindStringSubmatch(text)
	if callers == nil || admin == nil {
		return false
	}
	s.Addresses, s.Admin = []string{callers[1]}, admin[1]
	if pprof := pprofLine.FindStringSubmatch(text); pprof != nil {
		s.Profiles = pprof[1]
	}
	return true
}

// ready asks the router's metrics whether so many workers are ready.
func ready(ctx context.Context, admin string, workers int) (bool, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return false, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false, err
	}
	defer func() { _ = response.Body.Close() }() // only read from
	text, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	if err != nil {
		return false, err
	}
	return strings.Contains(string(text), fmt.Sprintf("snakepit_router_workers{state=\"Ready\"} %d\n", workers)), nil
}

// Build makes the router of a checkout.
func Build(ctx context.Context, root, binary string) error {
	command := exec.CommandContext(ctx, "go", "build", "-o", binary, "./router")
	command.Dir = root
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go build ./router in %s: %w\n%s", root, err, out)
	}
	return nil
}

// Checkout makes a worktree of another commit in a folder; remove ends it.
func Checkout(ctx context.Context, root, folder, commit string) (remove func() error, err error) {
	run := func(ctx context.Context, args ...string) error {
		command := exec.CommandContext(ctx, "git", append([]string{"-C", root}, args...)...)
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	if err := run(ctx, "worktree", "add", "--detach", folder, commit); err != nil {
		return nil, err
	}
	return func() error { return run(context.WithoutCancel(ctx), "worktree", "remove", "--force", folder) }, nil
}
