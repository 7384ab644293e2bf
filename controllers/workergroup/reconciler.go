package workergroup

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/metrics"
	"github.com/snakepit-k8s/snakepit/controllers/workergroup/plan"
	"github.com/snakepit-k8s/snakepit/controllers/writer"
)

// +kubebuilder:rbac:groups=snakepit.dev,resources=workergroups,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=snakepit.dev,resources=workergroups/status,verbs=patch
// +kubebuilder:rbac:groups=snakepit.dev,resources=workergroups/finalizers,verbs=update
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

const (
	// behindAgain is the latest time to look again while the cache lacks a write of ours; its watch event comes earlier.
	behindAgain = time.Second
	// refusedAgain is the wait before a refused pod is tried again.
	refusedAgain = 10 * time.Second
	// leftAgain is the wait before an uncached check is repeated.
	leftAgain = time.Second
)

// Reconciler keeps one pod for each group.
type Reconciler struct {
	Writer      *writer.Writer
	Events      events.EventRecorder
	Clock       clock.PassiveClock
	RouterImage string
	// Metrics counts starts, ends and refusals; nil counts nothing.
	Metrics *metrics.Metrics

	words lastWord
}

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, options controller.Options) error {
	forced := predicate.NewPredicateFuncs(func(pool client.Object) bool {
		return pool.GetAnnotations()[v1alpha1.AnnotationForceCleanup] != ""
	})
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.WorkerGroup{}).
		Owns(&corev1.Pod{}).
		// kubectl delete --cascade=orphan takes the reference away; the end of such a pod must still be noticed.
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(groupOf), builder.WithPredicates(writer.Unowned())).
		Watches(&v1alpha1.WorkerPool{}, handler.EnqueueRequestsFromMapFunc(r.groupsOf), builder.WithPredicates(forced)).
		WithOptions(options).
		Complete(r)
}

// groupOf is the group that a pod names in its labels.
func groupOf(_ context.Context, pod client.Object) []reconcile.Request {
	name := pod.GetLabels()[v1alpha1.LabelGroup]
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: pod.GetNamespace(), Name: name}}}
}

func (r *Reconciler) groupsOf(ctx context.Context, pool client.Object) []reconcile.Request {
	var list v1alpha1.WorkerGroupList
	if err := r.Writer.Client.List(ctx, &list, client.InNamespace(pool.GetNamespace()), writer.Naming(pool.GetUID())); err != nil {
		return nil
	}
	requests := make([]reconcile.Request, 0, len(list.Items))
	for _, group := range list.Items {
		requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: group.Namespace, Name: group.Name}})
	}
	return requests
}

// Reconcile looks once at a group: observe, plan, apply, status.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (result ctrl.Result, err error) {
	var cached v1alpha1.WorkerGroup
	if err := r.Writer.Client.Get(ctx, req.NamespacedName, &cached); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if behind, err := r.Writer.Ledger.Behind(ctx, cached.UID, r.Writer.Client); err != nil || behind {
		return ctrl.Result{RequeueAfter: behindAgain}, err
	}
	obs, err := observe(ctx, r.Writer.Client, r.Writer.Live, cached.DeepCopy())
	if err != nil {
		return ctrl.Result{}, err
	}
	r.announce(obs.group)
	now := r.Clock.Now()
	p := plan.Decide(obs.input(now))
	refused, applyErr := r.apply(ctx, obs, p)
	var statusErr error
	// A write that succeeded comes back as a watch event, and the status is computed from what is there then.
	if len(p.Actions) == 0 || refused != nil || applyErr != nil {
		statusErr = r.writeStatus(ctx, obs, refused, now)
	}
	if !p.Again.IsZero() {
		result.RequeueAfter = max(p.Again.Sub(now), time.Millisecond)
	}
	if refused != nil {
		result.RequeueAfter = refusedAgain
	}
	return r.settle(ctx, result, errors.Join(applyErr, statusErr))
}

// settle turns normal ends into another look instead of an error.
func (r *Reconciler) settle(ctx context.Context, result ctrl.Result, err error) (ctrl.Result, error) {
	if err == nil {
		return result, nil
	}
	if errors.Is(err, errPodsLeft) || writer.Ended(err) {
		ctrl.LoggerFrom(ctx).V(1).Info("looking again", "because", err.Error())
		return ctrl.Result{RequeueAfter: leftAgain}, nil
	}
	return ctrl.Result{}, err
}
