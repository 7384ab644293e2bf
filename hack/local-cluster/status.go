package main

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strings"

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
	config, first, ok := running(p.dir())
	if !ok {
		if _, err := os.Stat(p.dir()); err == nil {
			return fmt.Errorf("the cluster %s has ended and left %s; make it anew with: make cluster-up", p.name, p.dir())
		}
		return fmt.Errorf("the cluster %s does not run; bring it up with: make cluster-up", p.name)
	}
	fmt.Printf("cluster     %s (first process %d, folder %s)\n", p.name, first.PID, config.Dir)
	fmt.Printf("addresses   API server %s, pods %s, Services %s, DNS %s\n",
		config.Server(), config.Network.PodRange, config.Network.Services, config.Network.DNS)
	fmt.Printf("kubeconfig  %s\n", p.shownKubeconfig())
	fmt.Printf("runtime     unix://%s\n", config.Socket())
	fmt.Printf("programs    %s\n", programs(config))
	if names, err := imageNames(config); err == nil {
		fmt.Printf("images      %s\n", strings.Join(sorted(names), "\n            "))
	} else {
		fmt.Printf("images      %v\n", err)
	}
	api, err := newAPI(config)
	if err == nil {
		err = api.nodeReady()
	}
	if err != nil {
		return fmt.Errorf("the node is not Ready: %w (logs: %s)", err, config.Path("log"))
	}
	fmt.Println("node        Ready")
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
	for _, name := range node.Components() {
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
