package workerpool

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/metrics"
	"github.com/snakepit-k8s/snakepit/controllers/nodes"
	"github.com/snakepit-k8s/snakepit/controllers/seeded"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/plan"
	"github.com/snakepit-k8s/snakepit/controllers/writer"
)

// The rights on roles include what those roles grant: the API server lets nobody grant what he does not hold.
// +kubebuilder:rbac:groups=snakepit.dev,resources=workerpools,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=snakepit.dev,resources=workerpools/status,verbs=patch
// +kubebuilder:rbac:groups=snakepit.dev,resources=workerpools/finalizers,verbs=update
// +kubebuilder:rbac:groups="",resources=services;serviceaccounts,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=roles;rolebindings,verbs=get;list;watch;create;patch;delete

const (
	// behindAgain is the latest time to look again while the cache lacks a write of ours; its watch event comes earlier.
	behindAgain = time.Second
	// refusedAgain is the wait before a refused child is tried again.
	refusedAgain = 10 * time.Second
	// leftAgain is the wait before an uncached check is repeated.
	leftAgain = time.Second
)

// Reconciler keeps the groups of each pool.
type Reconciler struct {
	Writer *writer.Writer
	Events events.EventRecorder
	Clock  clock.PassiveClock
	// Metrics counts starts, ends and refusals; nil counts nothing.
	Metrics *metrics.Metrics
	// WatchNodes lets it act on cordoned and lost nodes, and guard pods from eviction.
	WatchNodes bool

	memory seeded.Memory
}

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, options controller.Options) error {
	build := ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.WorkerPool{}).
		Owns(&v1alpha1.WorkerGroup{}).
		Owns(&corev1.Service{}).
		Owns(&corev1.ServiceAccount{}).
		Owns(&rbacv1.Role{}).
		Owns(&rbacv1.RoleBinding{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(poolOf), builder.WithPredicates(placed())).
		WithOptions(options)
	// kubectl delete --cascade=orphan takes the references away; the end of such a child must still be noticed.
	for _, child := range []client.Object{&v1alpha1.WorkerGroup{}, &corev1.Service{}, &corev1.ServiceAccount{}, &rbacv1.Role{}, &rbacv1.RoleBinding{}} {
		build = build.Watches(child, handler.EnqueueRequestsFromMapFunc(poolOf), builder.WithPredicates(writer.Unowned()))
	}
	if r.WatchNodes {
		build = build.Owns(&policyv1.PodDisruptionBudget{}).
			Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.poolsOn), builder.WithPredicates(nodes.Changed()))
	}
	return build.Complete(r)
}

// poolOf is the pool that an object names in its labels.
func poolOf(_ context.Context, obj client.Object) []reconcile.Request {
	name := obj.GetLabels()[v1alpha1.LabelPool]
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: obj.GetNamespace(), Name: name}}}
}

// placed passes the changes of pods that a pool's plan depends on and that its group does not tell: the node it came to, and whether the Service
// leads to it.
func placed() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			was, okWas := e.ObjectOld.(*corev1.Pod)
			now, okNow := e.ObjectNew.(*corev1.Pod)
			return okWas && okNow && (was.Spec.NodeName != now.Spec.NodeName || was.Labels[v1alpha1.LabelServing] != now.Labels[v1alpha1.LabelServing])
		},
	}
}

// poolsOn are the pools with a pod on the node.
func (r *Reconciler) poolsOn(ctx context.Context, node client.Object) []reconcile.Request {
	var pods corev1.PodList
	if err := r.Writer.Client.List(ctx, &pods, client.MatchingFields{nodes.PodsByNode: node.GetName()}); err != nil {
		return nil
	}
	var requests []reconcile.Request
	for i := range pods.Items {
		requests = append(requests, poolOf(ctx, &pods.Items[i])...)
	}
	return requests
}

// Reconcile looks once at a pool: observe, plan, apply, status.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var cached v1alpha1.WorkerPool
	if err := r.Writer.Client.Get(ctx, req.NamespacedName, &cached); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if behind, err := r.Writer.Ledger.Behind(ctx, cached.UID, r.Writer.Client); err != nil || behind {
		return ctrl.Result{RequeueAfter: behindAgain}, err
	}
	obs, err := r.observe(ctx, cached.DeepCopy())
	if err != nil {
		return ctrl.Result{}, err
	}
	now := r.Clock.Now()
	p := plan.Decide(obs.input(now))
	var applyErr error
	obs.refused, applyErr = r.apply(ctx, obs, p)
	var statusErr error
	// A write that succeeded comes back as a watch event, and the status is computed from what is there then.
	if len(p.Actions) == 0 || obs.refused != "" || applyErr != nil {
		var again time.Time
		if again, statusErr = r.writeStatus(ctx, obs, now); !again.IsZero() && (p.Again.IsZero() || again.Before(p.Again)) {
			p.Again = again
		}
	}
	if obs.refused != "" {
		p.Again = now.Add(refusedAgain)
	}
	var result ctrl.Result
	if !p.Again.IsZero() {
		result.RequeueAfter = max(p.Again.Sub(now), time.Millisecond)
	}
	return r.settle(ctx, result, errors.Join(applyErr, statusErr))
}

// settle turns normal ends into another look instead of an error.
func (r *Reconciler) settle(ctx context.Context, result ctrl.Result, err error) (ctrl.Result, error) {
	if err == nil {
		return result, nil
	}
	if errors.Is(err, errLeft) || errors.Is(err, errNodeBack) || writer.Ended(err) || errors.Is(err, writer.ErrTaken) {
		ctrl.LoggerFrom(ctx).V(1).Info("looking again", "because", err.Error())
		return ctrl.Result{RequeueAfter: leftAgain}, nil
	}
	return ctrl.Result{}, err
}
