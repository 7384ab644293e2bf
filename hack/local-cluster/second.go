package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/build"
	"github.com/snakepit-k8s/snakepit/hack/local-cluster/hostlink"
	"github.com/snakepit-k8s/snakepit/hack/local-cluster/node"
)

// wantedNodes reads NODES: how many nodes the cluster shall have, 0 when that
// is not said.
func wantedNodes() (int, error) {
	switch text := os.Getenv("NODES"); text {
	case "":
		return 0, nil
	case "1", "2":
		return strconv.Atoi(text)
	default:
		return 0, refuse("NODES=%q: a local cluster has 1 node or 2", text)
	}
}

// checkNodes compares a cluster that runs with what is wanted of it.
func checkNodes(config node.Config, wanted int) error {
	if wanted == 0 || wanted == config.Nodes {
		return nil
	}
	return refuse("the cluster %s runs with NODES=%d; make it anew with: make cluster-down && make cluster-up NODES=%d",
		config.Name, config.Nodes, wanted)
}

// startSecond starts the second node's first process, unless it runs. The
// first node runs.
func (p place) startSecond(config node.Config, first firstProcess) (string, error) {
	second := config.Second()
	if _, process, ok := running(second.Dir); ok {
		return fmt.Sprintf("runs (pid %d)", process.PID), nil
	}
	if err := removeNode(second, time.Now().Add(endLimit)); err != nil {
		return "", err
	}
	if err := furnishSecond(config, second); err != nil {
		return "", err
	}
	process, err := launch(second, func(pid int) error { return hostlink.Join(config, first.PID, pid) })
	return fmt.Sprintf("pid %d", process.PID), err
}

// furnishSecond fills the second node's folder from the first's.
func furnishSecond(config, second node.Config) error {
	if err := makeFolders(second, "bin", "log", "etc", "pki"); err != nil {
		return err
	}
	if err := second.Save(); err != nil {
		return err
	}
	for _, program := range []string{"local-cluster", "kubernetes"} {
		if err := os.Link(config.Path("bin", program), second.Path("bin", program)); err != nil {
			return err
		}
	}
	if err := linkPrograms(second); err != nil {
		return err
	}
	for from, to := range map[string]string{
		"pki/ca.crt": "pki/ca.crt", "pki/kubelet-2.crt": "pki/kubelet.crt", "pki/kubelet-2.key": "pki/kubelet.key",
		"kubelet-2.kubeconfig": "kubelet.kubeconfig", "kube-proxy.kubeconfig": "kube-proxy.kubeconfig",
	} {
		if err := os.Link(config.Path(from), second.Path(to)); err != nil {
			return err
		}
	}
	return second.WriteFiles()
}

// bringUpSecond starts the second node, if the cluster has one, and waits for it.
func (p place) bringUpSecond(ctx context.Context, s steps, m made, config node.Config, first firstProcess, api api) error {
	if config.Nodes < 2 {
		return nil
	}
	second := config.Second()
	for _, step := range []struct {
		name string
		run  func() (string, error)
	}{
		{"second node", func() (string, error) { return p.startSecond(config, first) }},
		{"its pause and Python base images", func() (string, error) {
			return importMissing(ctx, second, []image{pauseImage(m), pythonImage(m)})
		}},
		{"second node Ready", func() (string, error) {
			return "", wait(ctx, nodeLimit, func() error {
				if _, _, ok := running(second.Dir); !ok {
					return errors.New("the second node has ended; see " + second.Log("node"))
				}
				return api.nodeReady(second)
			})
		}},
	} {
		if err := s.do(step.name, step.run); err != nil {
			return fmt.Errorf("%s: %w (logs: %s)", step.name, err, second.Path("log"))
		}
	}
	return nil
}

func pauseImage(m made) image {
	return image{build.ImageName("pause", m.pause.Key), m.pause.Path + "/pause.tar"}
}

func pythonImage(m made) image {
	return image{build.PythonImageOf(m.python.Key), m.python.Path + "/python-base.tar"}
}

// nodeCut takes the link between the nodes away; the second node's containers
// run on.
func nodeCut(_ context.Context, _ []string) error {
	return withSecond(func(config node.Config, first firstProcess) error {
		if err := hostlink.Cut(first.PID); err != nil {
			return err
		}
		fmt.Printf("node %s is cut off; bring it back with: make node-return\n", config.Second().NodeName())
		return nil
	})
}

func nodeReturn(_ context.Context, _ []string) error {
	return withSecond(func(config node.Config, first firstProcess) error {
		if err := hostlink.Restore(config, first.PID); err != nil {
			return err
		}
		fmt.Printf("node %s is back on the network\n", config.Second().NodeName())
		return nil
	})
}

func withSecond(act func(node.Config, firstProcess) error) error {
	config, first, err := mustRun()
	if err != nil {
		return err
	}
	if config.Nodes < 2 {
		return refuse("the cluster %s has one node; for two: make cluster-down && make cluster-up NODES=2", config.Name)
	}
	if _, _, ok := running(config.Second().Dir); !ok {
		return errors.New("the second node does not run; bring it up with: make cluster-up")
	}
	return act(config, first)
}

// inNodes asks each running node, with its root file system as the host sees
// it, and joins the answers; fs.ErrNotExist stands for "not on this node".
func inNodes[T any](config node.Config, ask func(node.Config, firstProcess) ([]T, error)) ([]T, error) {
	all := []T{}
	for _, each := range config.All() {
		_, process, ok := running(each.Dir)
		if !ok {
			continue
		}
		some, err := ask(each, process)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}
