package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/go-logr/zapr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/snakepit-k8s/snakepit/controllers"
	"github.com/snakepit-k8s/snakepit/controllers/fence"
)

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

// probePatience is shorter than the kubelet's for one probe.
const probePatience = 500 * time.Millisecond

// filled is a check for /readyz: who could not read yet what he acts on, perhaps because he may not, is not Ready. Else a rolling update would
// end the old operator before the new one's first refusal is known.
func filled(all cache.Cache) healthz.Checker {
	return func(r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), probePatience)
		defer cancel()
		if !all.WaitForCacheSync(ctx) {
			return errors.New("the caches are not filled")
		}
		return nil
	}
}

// newManager is the connection to the API server, with what all controllers share: cache, lease, metrics.
func newManager(config *rest.Config, o options) (ctrl.Manager, error) {
	// No limit of the client's own: the API server's priority and fairness knows better, and the operator never has more requests under way
	// than it looks at objects at a time. A life of a pool takes about 45 requests; with 50 a second, 1,000 pools would need a quarter of an hour.
	config.QPS = -1
	if o.leaderElect {
		config.Wrap(fence.New(o.leaseDuration, clock.RealClock{}).Wrap)
	}
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
		LeaderElectionNamespace:       o.leaseNamespace,
		LeaseDuration:                 &o.leaseDuration,
		RenewDeadline:                 &o.renewDeadline,
		RetryPeriod:                   &o.retryPeriod,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       ptr.To(20 * time.Second),
	})
}
