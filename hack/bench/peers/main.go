// Command peers measures the same echo in Ray Serve (HAProxy mode) and in LitServe, and how long they take to answer again after the process
// that serves was killed. It is for the docs, and heavy: it installs both, once, in an environment of its own in the user's cache.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/snakepit-k8s/snakepit/hack/bench/report"
	"github.com/snakepit-k8s/snakepit/hack/bench/system"
)

const requirements = "hack/bench/peers/requirements.txt"

type options struct {
	python, docs string
	kills        int
	window       time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.python, "python", ".venv/bin/python", "interpreter for our side (make venv)")
	flag.StringVar(&o.docs, "docs", "", "`page` whose part between the peers markers is replaced")
	flag.IntVar(&o.kills, "kills", 5, "how often the serving process is killed, 1 to 20")
	flag.DurationVar(&o.window, "window", 3*time.Second, "length of each measured loop, 1s to 30s")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.kills < 1 || o.kills > 20 || o.window < time.Second || o.window > 30*time.Second {
		return errors.New("--kills must be between 1 and 20, --window between 1s and 30s")
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "spb")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	own, err := filepath.Abs(o.python)
	if err != nil {
		return err
	}
	tree := system.Tree{Root: root, Router: filepath.Join(folder, "router"), Servers: filepath.Join(root, "hack", "bench", "servers"), Python: own}
	if err := system.Build(ctx, root, tree.Router); err != nil {
		return err
	}
	python, err := install(ctx)
	if err != nil {
		return err
	}
	theirs := tree
	theirs.Python = python
	var rows []row
	for _, s := range subjects(tree, theirs) {
		fmt.Fprintf(os.Stderr, "peers: %s\n", s.name)
		found, err := s.measure(ctx, o)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		rows = append(rows, found)
	}
	text := table(rows)
	fmt.Print(text)
	if o.docs == "" {
		return nil
	}
	return report.Replace(o.docs, report.PeersPart, fmt.Sprintf("\n`make bench-peers`, 1 Python process that serves, 1 KiB, client on the same machine.\n\n%s\n", text))
}

// install makes the environment when the one in the cache was not made from these requirements.
func install(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	wanted, err := os.ReadFile(requirements)
	if err != nil {
		return "", fmt.Errorf("run this from the top of the repository: %w", err)
	}
	folder := filepath.Join(cache, "snakepit", "bench-peers")
	stamp, python := filepath.Join(folder, "installed"), filepath.Join(folder, "venv", "bin", "python")
	if had, err := os.ReadFile(stamp); err == nil && string(had) == string(wanted) {
		return python, nil
	}
	fmt.Fprintf(os.Stderr, "peers: installing %s in %s, once: about 500 MB, some minutes\n", strings.Join(strings.Fields(requirements), " "), folder)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	for _, command := range [][]string{
		{"python3", "-m", "venv", "--clear", filepath.Join(folder, "venv")},
		{python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements},
	} {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, out)
		}
	}
	return python, os.WriteFile(stamp, wanted, 0o644)
}
