// Package controllers lists the operator's controllers and what they share. It decides nothing itself.
package controllers

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/catchup"
	"github.com/snakepit-k8s/snakepit/controllers/metrics"
	"github.com/snakepit-k8s/snakepit/controllers/nodes"
	"github.com/snakepit-k8s/snakepit/controllers/sweep"
	"github.com/snakepit-k8s/snakepit/controllers/workergroup"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool"
	"github.com/snakepit-k8s/snakepit/controllers/writer"
)

// The operator's own rights: leader election, and checking who reads its metrics.
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,namespace=snakepit-system,verbs=get;create;update
// +kubebuilder:rbac:groups="",resources=events,namespace=snakepit-system,verbs=create
// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

// Options of the operator's controllers.
type Options struct {
	// RouterImage runs in each group's pod as its router.
	RouterImage string
	// WatchNodes lets the operator act on nodes that are cordoned or lost, and protect pods from eviction meanwhile. It needs rights on nodes and
	// PodDisruptionBudgets.
	WatchNodes bool
	// Concurrency is the number of pools, and of groups, that are looked at at the same time; 4 when it is 0.
	Concurrency int
	// SweepInterval is the time between two sweeps for children without an owner; sweep.DefaultInterval when it is 0.
	SweepInterval time.Duration
	// Clock tells the time; the real one when it is nil.
	Clock clock.PassiveClock
	// Metrics is where the operator's metrics are registered; nowhere that is scraped when it is nil.
	Metrics prometheus.Registerer
	// SkipNameValidation lets tests run several managers in one process.
	SkipNameValidation bool
}

const (
	// firstRetry is the wait after the first failure of one object; it doubles with each.
	firstRetry = 5 * time.Millisecond
	// longestRetry bounds it: rights, or an API server, that come back after hours are noticed within this time. The library's bound is 17 minutes.
	longestRetry = 30 * time.Second
)

// retries is one controller's; it keeps a count of failures for each object.
func retries() workqueue.TypedRateLimiter[reconcile.Request] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, longestRetry)
}

// NewScheme knows every type that the operator reads or writes.
func NewScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	return scheme, v1alpha1.AddToScheme(scheme)
}

// CacheOptions keep only our own children of the kinds that others use too.
func CacheOptions() (cache.Options, error) {
	ours, err := labels.NewRequirement(v1alpha1.LabelPoolUID, selection.Exists, nil)
	if err != nil {
		return cache.Options{}, err
	}
	only := cache.ByObject{Label: labels.NewSelector().Add(*ours)}
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Node{}: {Transform: nodes.Trim}, &policyv1.PodDisruptionBudget{}: only,
			&corev1.Pod{}: only, &corev1.Service{}: only, &corev1.ServiceAccount{}: only, &rbacv1.Role{}: only, &rbacv1.RoleBinding{}: only,
		},
	}, nil
}

// Setup adds every controller to the manager.
func Setup(mgr ctrl.Manager, options Options) error {
	if options.Clock == nil {
		options.Clock = clock.RealClock{}
	}
	if options.Concurrency == 0 {
		options.Concurrency = 4
	}
	if err := writer.IndexOwners(context.Background(), mgr.GetFieldIndexer()); err != nil {
		return err
	}
	if options.Metrics == nil {
		options.Metrics = prometheus.NewRegistry()
	}
	counted := metrics.New(options.Metrics)
	counted.Watch(mgr.GetClient(), mgr.Elected())
	recorder := mgr.GetEventRecorder("snakepit-operator")
	newWriter := func() *writer.Writer {
		return &writer.Writer{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Ledger: catchup.NewLedger(options.Clock)}
	}
	settings := func() controller.Options {
		return controller.Options{MaxConcurrentReconciles: options.Concurrency, SkipNameValidation: &options.SkipNameValidation, RateLimiter: retries()}
	}
	pools := &workerpool.Reconciler{Writer: newWriter(), Events: recorder, Clock: options.Clock, Metrics: counted, WatchNodes: options.WatchNodes}
	if options.WatchNodes {
		if err := nodes.Index(context.Background(), mgr.GetFieldIndexer()); err != nil {
			return err
		}
	}
	if err := pools.SetupWithManager(mgr, settings()); err != nil {
		return err
	}
	groups := &workergroup.Reconciler{Writer: newWriter(), Events: recorder, Clock: options.Clock, RouterImage: options.RouterImage, Metrics: counted}
	if err := groups.SetupWithManager(mgr, settings()); err != nil {
		return err
	}
	return mgr.Add(&sweep.Sweeper{Writer: newWriter(), Log: mgr.GetLogger().WithName("sweep"), Clock: clock.RealClock{}, Interval: options.SweepInterval, Metrics: counted, WatchNodes: options.WatchNodes})
}
