// Command local-cluster brings up a real Kubernetes of one or two nodes on a Linux machine
// that has root and Go and nothing else: no Docker engine, no image registry.
//
// The whole cluster lives in mount, PID, network, UTS and IPC namespaces of its
// own under one init process, so that ending that process ends the cluster, and
// two checkouts (or a containerd that is already there) never meet. On the host
// it has one folder, one end of a veth pair with two routes, and one cgroup
// folder in each hierarchy and node; "down" removes them. A second node has
// namespaces, a first process and a folder of its own, and reaches the rest only
// by a link to the first.
//
// It is a tool for development and tests. It is not a way to run anything that
// must be kept: etcd does not sync to disk and a dead cluster is made anew.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sort"
	"strings"
	"syscall"

	"github.com/snakepit-k8s/snakepit/hack/local-cluster/node"
)

// Exit codes: 1 says that something did not work, 2 that it cannot on this
// machine or in this way.
const (
	exitFailed  = 1
	exitRefused = 2
)

// errRefused marks an error that no second try will mend.
var errRefused = errors.New("refused")

// refuse makes an error with exit code 2; its text says what to do.
func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errRefused}, args...)...)
}

type verb struct {
	usage string
	run   func(ctx context.Context, args []string) error
}

var verbs = map[string]verb{
	"up":             {"up                   bring the cluster up (does only what is missing); NODES=2 for two nodes", up},
	"down":           {"down                 remove the cluster and everything of it", down},
	"status":         {"status               say what runs; exit code 0 when every node is Ready", status},
	"assets":         {"assets               print the folder with etcd, kube-apiserver, kubectl, …", assets},
	"node-cut":       {"node-cut             take the second node's network away; its containers run on", nodeCut},
	"node-return":    {"node-return          give it back", nodeReturn},
	"kubeconfig":     {"kubeconfig           print the path of the kubeconfig", kubeconfig},
	"python-base":    {"python-base          print the path of the Python base image's archive", pythonBase},
	"load":           {"load FILE.tar…       import image archives into the cluster", load},
	"kill-container": {"kill-container ID    SIGKILL the main process of a container", killContainer},
	"processes":      {"processes            print all container processes of the node (JSON)", processes},
	"mounts":         {"mounts               print all mounts of pods and containers (JSON)", mounts},
	"exec":           {"exec COMMAND…        run a command of the host inside the node", execute},
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "node" {
		// Only "up" calls this, in namespaces it has made.
		fmt.Println("node:", node.Run(os.Args[2]))
		os.Exit(exitFailed)
	}
	if len(os.Args) < 2 {
		usage()
		os.Exit(exitRefused)
	}
	chosen, known := verbs[os.Args[1]]
	if !known {
		usage()
		os.Exit(exitRefused)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := chosen.run(ctx, os.Args[2:])
	stop()
	if err == nil {
		return
	}
	text := strings.TrimPrefix(err.Error(), errRefused.Error()+": ")
	fmt.Fprintln(os.Stderr, "local-cluster:", text)
	if errors.Is(err, errRefused) {
		os.Exit(exitRefused)
	}
	os.Exit(exitFailed)
}

func usage() {
	var lines []string
	for _, each := range verbs {
		lines = append(lines, "  "+each.usage)
	}
	sort.Strings(lines)
	fmt.Fprintf(os.Stderr, "usage: local-cluster VERB\n%s\n", strings.Join(lines, "\n"))
}
