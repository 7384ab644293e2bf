package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/wire"
)

const (
	// limit is how long anything may take on a busy machine; what it should take is in the figures.
	limit = time.Minute
	// look is the time between two looks.
	look = 50 * time.Millisecond
	// settled is how long nothing is written at a quiet point.
	settled = 300 * time.Millisecond
)

// scene is one pool in a namespace of its own, with an operator behind a wire. Its methods return what is wrong, so that a story can be tried
// again without failing the test.
type scene struct {
	ctx       context.Context
	config    *rest.Config
	client    client.Client
	namespace string
	wire      *wire.Transport
	operator  *fixture.Operator
	pool      *v1alpha1.WorkerPool
	// exists: the user has a pool and did not delete it.
	exists bool
}

// begin starts an operator for a fresh namespace.
func begin(t *testing.T) *scene {
	t.Helper()
	s, err := open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	must(t, s.start())
	return s
}

func open(ctx context.Context) (*scene, error) {
	namespace, err := server.Namespace(ctx, "operator")
	return &scene{ctx: ctx, config: server.Config, client: server.Client, namespace: namespace, wire: wire.NewTransport()}, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start starts an operator; the one before must have been stopped.
func (s *scene) start() (err error) {
	s.operator, err = fixture.StartOperator(s.wire.Through(s.config), fixture.OperatorOptions{Namespace: s.namespace})
	return err
}

func (s *scene) stop() error {
	if s.operator == nil {
		return nil
	}
	operator := s.operator
	s.operator = nil
	return operator.Stop()
}

// wait looks until try returns nil, and returns its last error after the time.
func (s *scene) wait(within time.Duration, what string, try func() error) error {
	ctx, cancel := context.WithTimeout(s.ctx, within)
	defer cancel()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, within, err)
		case <-ticker.C:
		}
	}
}

// create has the user make the pool.
func (s *scene) create(workers int32) error {
	s.pool, s.exists = fixture.NewPool(s.namespace, "pool", workers), true
	s.pool.Spec.Drain.Timeout = &metav1.Duration{Duration: 2 * time.Second}
	return s.client.Create(s.ctx, s.pool)
}

// change has the user patch the pool.
func (s *scene) change(patch string) error {
	return s.client.Patch(s.ctx, s.pool, client.RawPatch(types.MergePatchType, []byte(patch)))
}

func (s *scene) scale(workers int32) error {
	return s.change(fmt.Sprintf(`{"spec":{"workers":%d}}`, workers))
}

func (s *scene) image(tag string) error {
	return s.change(fmt.Sprintf(`{"spec":{"image":"registry.example/works:%s"}}`, tag))
}

// losePod deletes the pool's pod and waits for its end.
func (s *scene) losePod() error {
	pods, err := s.pods()
	if err != nil || len(pods) == 0 {
		return err
	}
	pod := &pods[0]
	if err := s.client.Delete(s.ctx, pod); client.IgnoreNotFound(err) != nil {
		return err
	}
	return s.wait(limit, "the pod's end", func() error { return s.isGone(&corev1.Pod{}, pod.Name, pod.UID) })
}

func (s *scene) delete() error {
	s.exists = false
	return client.IgnoreNotFound(s.client.Delete(s.ctx, s.pool))
}

func (s *scene) isGone(into client.Object, name string, uid types.UID) error {
	err := s.client.Get(s.ctx, types.NamespacedName{Namespace: s.namespace, Name: name}, into)
	if apierrors.IsNotFound(err) || (err == nil && into.GetUID() != uid) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%T %s is there", into, name)
	}
	return err
}

// pods are those of the pool's name, whatever labels they have left.
func (s *scene) pods() ([]corev1.Pod, error) {
	var list corev1.PodList
	err := s.client.List(s.ctx, &list, client.InNamespace(s.namespace))
	return list.Items, err
}

func (s *scene) group() (*v1alpha1.WorkerGroup, error) {
	var list v1alpha1.WorkerGroupList
	if err := s.client.List(s.ctx, &list, client.InNamespace(s.namespace)); err != nil {
		return nil, err
	}
	if len(list.Items) != 1 {
		return nil, fmt.Errorf("%d groups", len(list.Items))
	}
	return &list.Items[0], nil
}

// ready says that the pool's own status tells of everything that is asked of it.
func (s *scene) ready() error {
	pool := &v1alpha1.WorkerPool{}
	if err := s.client.Get(s.ctx, client.ObjectKeyFromObject(s.pool), pool); err != nil {
		return err
	}
	s.pool = pool
	c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case pool.DeletionTimestamp != nil:
		return errors.New("the pool is being deleted")
	case c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != pool.Generation,
		pool.Status.ObservedGeneration != pool.Generation, pool.Status.ReadyWorkers != pool.Spec.Workers,
		meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReconciling) != nil,
		meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionStalled) != nil:
		return fmt.Errorf("%d of %d workers: %s", pool.Status.ReadyWorkers, pool.Spec.Workers, fixture.Conditions(pool.Status.Conditions))
	}
	return nil
}

// asAsked compares what is there with what the user asked for: one group, one serving pod, and what stands around them.
func (s *scene) asAsked() error {
	if !s.exists {
		left, err := fixture.Leftovers(s.ctx, s.client, s.namespace)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left: %s", strings.Join(left, ", "))
		}
		return err
	}
	if err := s.ready(); err != nil {
		return err
	}
	group, err := s.group()
	if err != nil {
		return err
	}
	pods, err := s.pods()
	if err != nil {
		return err
	}
	if len(pods) != 1 {
		var names []string
		for _, pod := range pods {
			names = append(names, fmt.Sprintf("%s, labels %v, owners %v", pod.Name, pod.Labels, pod.OwnerReferences))
		}
		return fmt.Errorf("%d pods, and group %s names %s: %s", len(pods), group.Name, group.Spec.PodUID, strings.Join(names, "; "))
	}
	pod := &pods[0]
	worker := slices.IndexFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == v1alpha1.WorkerContainer })
	switch {
	case !metav1.IsControlledBy(group, s.pool) || group.DeletionTimestamp != nil || !slices.Contains(group.Finalizers, v1alpha1.Finalizer):
		return fmt.Errorf("group %s: owners %v, finalizers %v", group.Name, group.OwnerReferences, group.Finalizers)
	case group.Spec.Workers != s.pool.Spec.Workers || group.Spec.Image != s.pool.Spec.Image || group.Spec.DrainRequest != nil:
		return fmt.Errorf("group %s has %d workers of image %s", group.Name, group.Spec.Workers, group.Spec.Image)
	case group.Spec.PodUID != pod.UID || pod.Labels[v1alpha1.LabelServing] != "true" || !metav1.IsControlledBy(pod, group) || pod.DeletionTimestamp != nil:
		return fmt.Errorf("group %s names %s; pod %s is %s, labels %v, owners %v", group.Name, group.Spec.PodUID, pod.Name, pod.UID, pod.Labels, pod.OwnerReferences)
	case worker < 0 || pod.Spec.Containers[worker].Image != s.pool.Spec.Image:
		return fmt.Errorf("pod %s has another image than %s", pod.Name, s.pool.Spec.Image)
	}
	return s.access(group.Name)
}

// access checks what stands around the group.
func (s *scene) access(group string) error {
	role := &rbacv1.Role{}
	for _, o := range []client.Object{&corev1.ServiceAccount{}, role, &rbacv1.RoleBinding{}, &corev1.Service{}} {
		name := s.pool.Name + v1alpha1.RouterAccountSuffix
		if _, is := o.(*corev1.Service); is {
			name = s.pool.Name
		}
		if err := s.client.Get(s.ctx, types.NamespacedName{Namespace: s.namespace, Name: name}, o); err != nil {
			return err
		}
		if !metav1.IsControlledBy(o, s.pool) || o.GetLabels()[v1alpha1.LabelPoolUID] != string(s.pool.UID) {
			return fmt.Errorf("%T %s: owners %v, labels %v", o, name, o.GetOwnerReferences(), o.GetLabels())
		}
	}
	if len(role.Rules) == 0 || !slices.Equal(role.Rules[0].ResourceNames, []string{group}) {
		return fmt.Errorf("the role is for %v, not for group %s", role.Rules, group)
	}
	return nil
}

// quiet waits until everything is as asked and the operator has stopped writing. It returns how long that took.
func (s *scene) quiet(within time.Duration) (time.Duration, error) {
	since := time.Now()
	var took time.Duration
	err := s.wait(within, "as the user asked", func() error {
		if err := s.asAsked(); err != nil {
			took = 0
			return err
		}
		if took == 0 {
			took = time.Since(since)
		}
		if ago := time.Since(s.wire.LastWrite()); s.operator != nil && ago < settled {
			return fmt.Errorf("the operator's last write was %s ago", ago)
		}
		return nil
	})
	return took, err
}

// reach is quiet, for the story's next step.
func (s *scene) reach() error {
	_, err := s.quiet(limit)
	return err
}

// lives is what was ever there, when the audit has seen the end of what is gone.
func (s *scene) lives() ([]fixture.Life, error) {
	var lives []fixture.Life
	err := s.wait(limit, "the audit sees the present", func() error {
		if err := audit.Fault(); err != nil {
			return err
		}
		lives = audit.Seen(s.namespace)
		alive := 0
		for _, l := range lives {
			if l.Died == 0 && (l.Owner != "" || l.Kind == "WorkerPool") {
				alive++
			}
		}
		left, err := fixture.Leftovers(s.ctx, s.client, s.namespace)
		if err == nil && len(left) != alive {
			err = fmt.Errorf("%d objects live, the audit knows %d", len(left), alive)
		}
		return err
	})
	return lives, err
}
