// Command manager is the Snakepit operator: it turns WorkerPools into groups, pods and a Service, and cleans up after them.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/snakepit-k8s/snakepit/controllers"
	"github.com/snakepit-k8s/snakepit/controllers/rights"
	"github.com/snakepit-k8s/snakepit/controllers/sweep"
)

// version is set by the build.
var version = "dev"

type options struct {
	leaderElect, watchNodes                               bool
	routerImage, metricsAddress, probeAddress, namespaces string

	leaseNamespace                            string
	leaseDuration, renewDeadline, retryPeriod time.Duration
	sweepInterval                             time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.routerImage, "router-image", "", "Image of the router in each pool's pod (required); the operator's own image holds it.")
	flag.BoolVar(&o.leaderElect, "leader-elect", false, "Let only one of several operators act.")
	flag.BoolVar(&o.watchNodes, "watch-nodes", true, "Drain groups on cordoned nodes and replace those on lost ones; needs rights on nodes and PodDisruptionBudgets.")
	flag.StringVar(&o.leaseNamespace, "leader-elect-resource-namespace", "", "Namespace of the lease; the operator's own when empty.")
	flag.DurationVar(&o.leaseDuration, "leader-elect-lease-duration", 15*time.Second, "How long others wait for a leader that does not renew its lease.")
	flag.DurationVar(&o.renewDeadline, "leader-elect-renew-deadline", 10*time.Second, "How long a leader tries to renew its lease before it ends; shorter than the lease's duration.")
	flag.DurationVar(&o.retryPeriod, "leader-elect-retry-period", 2*time.Second, "Wait between two tries to get or renew the lease.")
	flag.StringVar(&o.metricsAddress, "metrics-bind-address", ":8443", "Address of the metrics over HTTPS, with authentication and authorization; 0 turns them off.")
	flag.StringVar(&o.probeAddress, "health-probe-bind-address", ":8081", "Address of /healthz and /readyz.")
	flag.StringVar(&o.namespaces, "namespaces", "", "Comma-separated namespaces to act in; all when empty.")
	flag.DurationVar(&o.sweepInterval, "sweep-interval", sweep.DefaultInterval, "Time between two looks for objects whose owner is gone; at least 1s.")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	if o.routerImage == "" {
		return errors.New("--router-image is required: give it the operator's own image")
	}
	if err := logJSON(); err != nil {
		return err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("no API server to talk to (in a pod, or with --kubeconfig): %w", err)
	}
	held, err := rights.Over(config, ctrl.Log.WithName("rights"), rights.NewMetric(ctrlmetrics.Registry))
	if err != nil {
		return err
	}
	mgr, err := newManager(config, o)
	if err != nil {
		return err
	}
	if err := controllers.Setup(mgr, controllers.Options{
		RouterImage: o.routerImage, WatchNodes: o.watchNodes, Metrics: ctrlmetrics.Registry, SweepInterval: max(o.sweepInterval, time.Second),
	}); err != nil {
		return err
	}
	if err := errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("caches", filled(mgr.GetCache())), mgr.AddReadyzCheck("rights", held.Ready)); err != nil {
		return err
	}
	mgr.GetLogger().Info("starting", "version", version, "routerImage", o.routerImage)
	ctx := ctrl.SetupSignalHandler()
	// The manager would start it when the caches are filled, and without rights they never are.
	go held.Run(ctx)
	return mgr.Start(ctx)
}
