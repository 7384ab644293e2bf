package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/node"
)

func status(ctx context.Context, _ []string) error {
	current, err := usesCurrent()
	if err != nil {
		return err
	}
	if current {
		return showCurrent(ctx)
	}
	p, err := here()
	if err != nil {
		return err
	}
	if _, err := os.Stat(p.dir()); err == nil && os.Geteuid() != 0 {
		return refuse("only root may look into the cluster %s; run it as root", p.name)
	}
	config, first, ok := running(p.dir())
	if !ok {
		if _, err := os.Stat(p.dir()); err == nil {
			return fmt.Errorf("the cluster %s has ended and left %s; make it anew with: make cluster-up", p.name, p.dir())
		}
		return fmt.Errorf("the cluster %s does not run; bring it up with: make cluster-up", p.name)
	}
	fmt.Printf("cluster     %s (first process %d, folder %s)\n", p.name, first.PID, config.Dir)
	fmt.Printf("addresses   API server %s, pods %s, Services %s, DNS %s\n",
		config.Server(), config.Network.Pods, config.Network.Services, config.Network.DNS)
	fmt.Printf("kubeconfig  %s\n", p.shownKubeconfig())
	api, err := newAPI(config)
	if err != nil {
		return err
	}
	var problems []error
	for _, each := range config.All() {
		problems = append(problems, nodeStatus(api, each))
	}
	return errors.Join(problems...)
}

// nodeStatus describes one node; the error says why it is not Ready.
func nodeStatus(api api, config node.Config) error {
	fmt.Printf("runtime     unix://%s\n", config.Socket())
	fmt.Printf("programs    %s\n", programs(config))
	if names, err := imageNames(config); err == nil {
		fmt.Printf("images      %s\n", strings.Join(sorted(names), "\n            "))
	} else {
		fmt.Printf("images      %v\n", err)
	}
	if err := api.nodeReady(config); err != nil {
		return fmt.Errorf("the node %s is not Ready: %w (logs: %s)", config.NodeName(), err, config.Path("log"))
	}
	fmt.Printf("node        %s Ready\n", config.NodeName())
	return nil
}

// programs says which of the node's programs run, and which should but do not.
func programs(config node.Config) string {
	pids, err := config.Processes()
	if err != nil {
		return err.Error()
	}
	found := map[string]int{}
	for _, pid := range pids {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue
		}
		name, _, _ := strings.Cut(string(cmdline), "\x00")
		if _, other := found[name]; !other {
			found[name] = pid
		}
	}
	var list []string
	for _, name := range config.Components() {
		if pid := found[name]; pid != 0 {
			list = append(list, fmt.Sprintf("%s (%d)", name, pid))
		} else {
			list = append(list, name+" (does not run)")
		}
	}
	return strings.Join(list, ", ")
}

func sorted(set map[string]bool) []string {
	var list []string
	for name := range set {
		list = append(list, name)
	}
	sort.Strings(list)
	return list
}

// currentContext is the context that the user's kubectl would use.
func currentContext(ctx context.Context) (string, error) {
	output, err := exec.CommandContext(ctx, "kubectl", "config", "current-context").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", refuse("CLUSTER=current needs kubectl on the PATH")
	}
	name := strings.TrimSpace(string(output))
	if err != nil || name == "" {
		return "", refuse("CLUSTER=current, but there is no current context: set one with kubectl config use-context NAME")
	}
	return name, nil
}

// showCurrent says what CLUSTER=current means here, and fails when the cluster
// does not answer.
func showCurrent(ctx context.Context) error {
	name, err := currentContext(ctx)
	if err != nil {
		return err
	}
	output, err := exec.CommandContext(ctx, "kubectl", "--request-timeout=10s", "get", "nodes").CombinedOutput()
	if err != nil {
		return fmt.Errorf("the cluster of context %q does not answer: %s", name, tail(string(output), 3))
	}
	fmt.Printf("CLUSTER=current: context %s\n%s", name, output)
	return nil
}

func kubeconfig(_ context.Context, _ []string) error {
	current, err := usesCurrent()
	if err != nil {
		return err
	}
	if current {
		path := os.Getenv("KUBECONFIG")
		if path == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return err
			}
			path = filepath.Join(home, ".kube", "config")
		}
		fmt.Println(path)
		return nil
	}
	p, err := here()
	if err != nil {
		return err
	}
	if _, _, ok := running(p.dir()); !ok {
		return fmt.Errorf("the cluster %s does not run; bring it up with: make cluster-up", p.name)
	}
	fmt.Println(p.shownKubeconfig())
	return nil
}

// rootOf is the node's root file system as the host sees it.
func rootOf(first firstProcess) string { return fmt.Sprintf("/proc/%d/root", first.PID) }

func killContainer(_ context.Context, args []string) error {
	if len(args) != 1 {
		return refuse("usage: kill-container ID, the container id without containerd://")
	}
	config, _, err := mustRun()
	if err != nil {
		return err
	}
	id := strings.TrimPrefix(args[0], "containerd://")
	pids, err := inNodes(config, func(_ node.Config, first firstProcess) ([]int, error) {
		pid, err := node.MainProcess(rootOf(first), id)
		if err != nil {
			return nil, err
		}
		return []int{pid}, nil
	})
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("no container %s runs on the cluster", id)
	}
	pid := pids[0]
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	fmt.Println(pid)
	return nil
}

func processes(_ context.Context, _ []string) error {
	config, _, err := mustRun()
	if err != nil {
		return err
	}
	containers, err := inNodes(config, func(each node.Config, first firstProcess) ([]node.Container, error) {
		return each.Containers(rootOf(first))
	})
	if err != nil {
		return err
	}
	return printJSON(containers)
}

func mounts(_ context.Context, _ []string) error {
	config, _, err := mustRun()
	if err != nil {
		return err
	}
	all, err := inNodes(config, func(_ node.Config, first firstProcess) ([]node.Mounts, error) {
		return node.PodMounts(first.PID, rootOf(first))
	})
	if err != nil {
		return err
	}
	return printJSON(all)
}

func printJSON(value any) error {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// execute runs a command of the host in the node's namespaces, for tests that
// cut links or look at sockets.
func execute(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return refuse("usage: exec COMMAND [ARGUMENT…]")
	}
	config, first, err := mustRun()
	if err != nil {
		return err
	}
	command := exec.CommandContext(ctx, "nsenter", append([]string{
		"--target", strconv.Itoa(first.PID), "--mount", "--pid", "--net", "--uts", "--ipc", "--wd=/", "--",
	}, args...)...)
	command.Env = append(os.Environ(), "PATH="+config.Path("bin")+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = command.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return err
}
