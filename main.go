// Command manager is the Snakepit operator: it turns WorkerPools into groups, pods and a Service, and cleans up after them.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-logr/zapr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/snakepit-k8s/snakepit/controllers"
)

// version is set by the build.
var version = "dev"

type options struct {
	leaderElect, watchNodes                               bool
	routerImage, metricsAddress, probeAddress, namespaces string
}

func main() {
	var o options
	flag.StringVar(&o.routerImage, "router-image", "", "Image of the router in each pool's pod (required); the operator's own image holds it.")
	flag.BoolVar(&o.leaderElect, "leader-elect", false, "Let only one of several operators act.")
	flag.BoolVar(&o.watchNodes, "watch-nodes", true, "Drain groups on cordoned nodes and replace those on lost ones; needs rights on nodes and PodDisruptionBudgets.")
	flag.StringVar(&o.metricsAddress, "metrics-bind-address", ":8443", "Address of the metrics over HTTPS, with authentication and authorization; 0 turns them off.")
	flag.StringVar(&o.probeAddress, "health-probe-bind-address", ":8081", "Address of /healthz and /readyz.")
	flag.StringVar(&o.namespaces, "namespaces", "", "Comma-separated namespaces to act in; all when empty.")
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
	mgr, err := newManager(config, o)
	if err != nil {
		return err
	}
	if err := controllers.Setup(mgr, controllers.Options{RouterImage: o.routerImage, WatchNodes: o.watchNodes, Metrics: ctrlmetrics.Registry}); err != nil {
		return err
	}
	if err := errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("ping", healthz.Ping)); err != nil {
		return err
	}
	mgr.GetLogger().Info("starting", "version", version, "routerImage", o.routerImage)
	return mgr.Start(ctrl.SetupSignalHandler())
}

// logJSON sends what the operator and its libraries say to stderr, one JSON object a line.
func logJSON() error {
	config := zap.NewProductionConfig()
	config.EncoderConfig.EncodeTime = zapcore.ISO8601TimeEncoder
	config.DisableStacktrace = true
	log, err := config.Build()
	if err == nil {
		ctrl.SetLogger(zapr.NewLogger(log))
		klog.SetLogger(zapr.NewLogger(log).WithName("client-go"))
	}
	return err
}

func newManager(config *rest.Config, o options) (ctrl.Manager, error) {
	// No limit of the client's own: the API server's priority and fairness knows better, and the operator never has more requests under way
	// than it looks at objects at a time. A life of a pool takes about 45 requests; with 50 a second, 1,000 pools would need a quarter of an hour.
	config.QPS = -1
	scheme, err := controllers.NewScheme()
	if err != nil {
		return nil, err
	}
	kept, err := controllers.CacheOptions()
	if err != nil {
		return nil, err
	}
	if o.namespaces != "" {
		kept.DefaultNamespaces = map[string]cache.Config{}
		for _, name := range strings.Split(o.namespaces, ",") {
			kept.DefaultNamespaces[strings.TrimSpace(name)] = cache.Config{}
		}
	}
	return ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme,
		Cache:  kept,
		Metrics: metricsserver.Options{
			BindAddress:    o.metricsAddress,
			SecureServing:  true,
			FilterProvider: filters.WithAuthenticationAndAuthorization,
		},
		HealthProbeBindAddress:        o.probeAddress,
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              "snakepit-operator",
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       ptr.To(20 * time.Second),
	})
}
