package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/hostlink"
	"github.com/snakepit-k8s/snakepit/hack/local-cluster/node"
)

// How long the processes of a node may take to end after SIGKILL: one in the
// middle of a large write takes seconds.
const endLimit = 30 * time.Second

func down(_ context.Context, args []string) error {
	if len(args) > 0 {
		return refuse("down takes no arguments; name another cluster with CLUSTER_NAME")
	}
	current, err := usesCurrent()
	if err != nil {
		return err
	}
	if current {
		fmt.Println("CLUSTER=current: your own cluster is left alone")
		return nil
	}
	p, err := here()
	if err != nil {
		return err
	}
	if _, err := os.Stat(p.dir()); errors.Is(err, os.ErrNotExist) {
		fmt.Printf("no local cluster %s\n", p.name)
		return p.unlink()
	}
	if os.Geteuid() != 0 {
		return refuse("only root may remove the cluster; run it as root")
	}
	unlock, err := lockState()
	if err != nil {
		return err
	}
	defer unlock()
	s := newSteps(os.Stdout)
	if err := s.do("remove "+p.name, func() (string, error) { return removeAll(p) }); err != nil {
		return err
	}
	// The last cluster of the machine takes the folder of all with it.
	if err := syscall.Rmdir(stateRoot); err != nil && err != syscall.ENOTEMPTY && err != syscall.EEXIST {
		return fmt.Errorf("%s: %w", stateRoot, err)
	}
	return nil
}

// removeAll ends the cluster and removes everything of it from the machine,
// however far it had come. The caller holds the lock.
func removeAll(p place) (string, error) {
	dir := p.dir()
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return "none", nil
	}
	// Names follow from the cluster's name alone, so a lost node.json is no loss.
	config := node.Config{Name: p.name, Dir: dir}
	deadline := time.Now().Add(endLimit)
	if err := removeNode(config.Second(), deadline); err != nil {
		return "", err
	}
	if err := hostlink.Disconnect(config); err != nil {
		return "", err
	}
	if err := p.unlink(); err != nil {
		return "", err
	}
	return "", removeNode(config, deadline)
}

// removeNode ends one node and removes its cgroups and its folder, however far
// it had come.
func removeNode(config node.Config, deadline time.Time) error {
	if err := config.Thaw(); err != nil {
		return err
	}
	if err := endProcesses(config, deadline); err != nil {
		return err
	}
	if err := config.RemoveCgroups(deadline); err != nil {
		return err
	}
	// First out of sight of others, then removed: a half removed folder must
	// not look like a node.
	if err := os.Remove(config.Path("init.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.RemoveAll(config.Dir)
}

// endProcesses kills the first process, with which the kernel ends all others
// of its PID namespace, and waits for the last of them.
func endProcesses(config node.Config, deadline time.Time) error {
	if _, first, ok := running(config.Dir); ok {
		if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			return fmt.Errorf("first process %d: %w", first.PID, err)
		}
	}
	for {
		left, err := config.Processes()
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return nil
		}
		// A start that was broken off has a first process that no file names.
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end after SIGKILL; they wait in the kernel (see /proc/PID/stack), try down again later", left)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
