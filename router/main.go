package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/go-logr/zapr"
	"go.uber.org/zap"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/admin"
)

// version is set by the linker.
var version = "dev"

// options are the command line and the environment.
type options struct {
	config       string
	namespace    string
	group        string
	listen       string
	adminListen  string
	pprofListen  string
	bridgeSocket string
	stateDir     string
	podUID       string
	podName      string
}

func parseOptions(args []string) (options, error) {
	o := options{podUID: os.Getenv(v1alpha1.EnvPodUID), podName: os.Getenv(v1alpha1.EnvPodName)}
	f := flag.NewFlagSet("router", flag.ContinueOnError)
	f.StringVar(&o.config, "config", "", "YAML `file` with the fields of WorkerGroup.spec: run without Kubernetes; read again when it changes")
	f.StringVar(&o.namespace, "namespace", "", "namespace of the WorkerGroup to follow")
	f.StringVar(&o.group, "group", "", "name of the WorkerGroup to follow")
	f.StringVar(&o.listen, "listen", fmt.Sprintf(":%d", v1alpha1.PortGRPC), "address for callers (gRPC)")
	f.StringVar(&o.adminListen, "admin-listen", fmt.Sprintf(":%d", v1alpha1.PortAdmin), "address for probes and metrics (HTTP)")
	f.StringVar(&o.pprofListen, "pprof-listen", "", "loopback `address` for Go's profiles under /debug/pprof/, such as 127.0.0.1:6060; off when empty")
	f.StringVar(&o.bridgeSocket, "bridge-socket", v1alpha1.BridgeSocket, "unix socket that workers dial")
	f.StringVar(&o.stateDir, "state-dir", v1alpha1.RouterStateDir, "`directory` of this router alone, for the last spec it followed")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q: the router takes flags only", f.Arg(0))
	case o.config == "" && (o.namespace == "" || o.group == ""):
		return o, errors.New("give --config FILE, or --namespace and --group in a cluster")
	case o.config != "" && (o.namespace != "" || o.group != ""):
		return o, errors.New("--config runs without Kubernetes: leave --namespace and --group out")
	case o.config == "" && o.podUID == "":
		return o, fmt.Errorf("%s is not set: in a cluster the pod's UID comes by the downward API", v1alpha1.EnvPodUID)
	}
	if o.pprofListen != "" {
		if err := loopbackAddress(o.pprofListen); err != nil {
			return o, err
		}
	}
	if o.podUID == "" {
		o.podUID = localPod
	}
	if o.podName == "" {
		o.podName = localPod
	}
	return o, nil
}

// localPod stands for the pod where there is none.
const localPod = "local"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "prestop" {
		if err := prestop(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "router prestop:", err)
			os.Exit(1)
		}
		return
	}
	o, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "router:", err)
		os.Exit(2)
	}
	z, err := zap.NewProduction()
	if err != nil {
		fmt.Fprintln(os.Stderr, "router:", err)
		os.Exit(1)
	}
	log := zapr.NewLogger(z)
	tuneMemory()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	r, err := newRouter(o, log)
	if err == nil {
		err = r.run(ctx)
	}
	if err != nil {
		log.Error(err, "router ends")
		os.Exit(1)
	}
}

// prestop is `router prestop`, the container's preStop hook: it asks the router beside it to drain.
func prestop(args []string) error {
	f := flag.NewFlagSet("router prestop", flag.ContinueOnError)
	dir := f.String("state-dir", v1alpha1.RouterStateDir, "the router's --state-dir")
	if err := f.Parse(args); err != nil {
		return err
	}
	return admin.AskPreStop(context.Background(), filepath.Join(*dir, admin.PreStopSocket))
}
