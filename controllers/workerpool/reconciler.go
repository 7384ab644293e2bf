package workerpool

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/seeded"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/plan"
	"github.com/snakepit-k8s/snakepit/controllers/writer"
)

// The rights on roles include what those roles grant: the API server lets nobody grant what he does not hold.
// +kubebuilder:rbac:groups=snakepit.dev,resources=workerpools,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=snakepit.dev,resources=workerpools/status,verbs=get;patch
// +kubebuilder:rbac:groups=snakepit.dev,resources=workerpools/finalizers,verbs=update
// +kubebuilder:rbac:groups="",resources=services;serviceaccounts,verbs=get;list;watch;create;patch;delete
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

	memory seeded.Memory
}

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, options controller.Options) error {
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.WorkerPool{}).
		Owns(&v1alpha1.WorkerGroup{}).
		Owns(&corev1.Service{}).
		Owns(&corev1.ServiceAccount{}).
		Owns(&rbacv1.Role{}).
		Owns(&rbacv1.RoleBinding{}).
		WithOptions(options).
		Complete(r)
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
	if errors.Is(err, errLeft) || writer.Ended(err) || errors.Is(err, writer.ErrTaken) {
		ctrl.LoggerFrom(ctx).V(1).Info("looking again", "because", err.Error())
		return ctrl.Result{RequeueAfter: leftAgain}, nil
	}
	return ctrl.Result{}, err
}
