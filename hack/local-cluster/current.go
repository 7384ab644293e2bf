package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

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
