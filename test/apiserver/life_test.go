package apiserver

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
)

func TestCreateAndDelete(t *testing.T) {
	s := begin(t)
	pool := s.pool("demo", 2)
	s.ready(pool)
	if len(pool.Finalizers) != 1 || pool.Finalizers[0] != v1alpha1.Finalizer {
		t.Errorf("finalizers %v, want only ours", pool.Finalizers)
	}
	if got, want := pool.Status.Endpoint, "demo."+s.namespace+".svc:50051"; got != want {
		t.Errorf("endpoint %s, want %s", got, want)
	}
	if got, want := pool.Status.Selector, "snakepit.dev/pool=demo,snakepit.dev/scale-by=external"; got != want {
		t.Errorf("selector %s, want %s", got, want)
	}
	if pool.Status.ReadySummary != "2/2" || pool.Status.Workers != 2 {
		t.Errorf("%s ready of %d", pool.Status.ReadySummary, pool.Status.Workers)
	}
	s.must(server.Client.Delete(s.ctx, pool))
	s.gone(pool)
}

// Every child names its owner as controller, so that garbage collection works too, and carries the pool's UID.
func TestOwnership(t *testing.T) {
	s := begin(t)
	pool := s.pool("owner", 1)
	s.ready(pool)
	group, pod := s.group(pool), s.onlyPod(pool)
	access := "owner" + v1alpha1.RouterAccountSuffix
	children := []client.Object{
		&v1alpha1.WorkerGroup{ObjectMeta: metav1.ObjectMeta{Name: group.Name}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "owner"}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: access}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: access}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: access}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}},
	}
	for _, child := range children {
		child.SetNamespace(s.namespace)
		s.must(s.get(child))
		owner := metav1.GetControllerOf(child)
		want := pool.UID
		if child.GetName() == pod.Name {
			want = group.UID
		}
		if owner == nil || owner.UID != want || owner.BlockOwnerDeletion == nil || !*owner.BlockOwnerDeletion {
			t.Errorf("%T %s: owner %+v, want controller %s with blockOwnerDeletion", child, child.GetName(), owner, want)
		}
		if child.GetLabels()[v1alpha1.LabelPoolUID] != string(pool.UID) {
			t.Errorf("%T %s does not carry the pool's UID: %v", child, child.GetName(), child.GetLabels())
		}
	}
	if group.Spec.PodUID != pod.UID || pod.Labels[v1alpha1.LabelServing] != "true" {
		t.Errorf("group serves from %s, pod is %s with labels %v", group.Spec.PodUID, pod.UID, pod.Labels)
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: access}}
	s.must(s.get(role))
	for _, rule := range role.Rules {
		if len(rule.ResourceNames) != 1 || rule.ResourceNames[0] != group.Name {
			t.Errorf("the router may touch %v, want only %s", rule.ResourceNames, group.Name)
		}
	}
}

// Workers, sessions, queue and calls change in place: no pod is made.
func TestLiveChange(t *testing.T) {
	s := begin(t)
	pool := s.pool("live", 2)
	s.ready(pool)
	pod := s.onlyPod(pool)
	s.change(pool, func(p *v1alpha1.WorkerPool) {
		p.Spec.Workers = 8
		p.Spec.Sessions.Affinity = v1alpha1.AffinityHint
		p.Spec.Queue.MaxLength = 7
		p.Spec.Calls.Timeout = &metav1.Duration{Duration: 20 * time.Second}
	})
	s.ready(pool)
	group := s.group(pool)
	if group.Spec.Workers != 8 || group.Spec.Queue.MaxLength != 7 || group.Spec.Calls.Timeout.Duration != 20*time.Second {
		t.Errorf("the group did not follow: %+v", group.Spec.LiveSettings)
	}
	if group.Spec.Sessions.Creation != v1alpha1.SessionCreationImplicit {
		t.Errorf("creation %q, want Implicit for Hint", group.Spec.Sessions.Creation)
	}
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.Workers = 3 })
	s.ready(pool)
	if after := s.onlyPod(pool); after.UID != pod.UID {
		t.Errorf("pod %s became %s", pod.UID, after.UID)
	}
	if pool.Status.ReadySummary != "3/3" {
		t.Errorf("%s ready, want 3/3", pool.Status.ReadySummary)
	}
}

// A change of the pod's own fields is Recreate: the old group is drained and gone before its successor has a pod.
func TestRecreate(t *testing.T) {
	s := begin(t)
	pool := s.pool("again", 1)
	s.ready(pool)
	before, old := s.group(pool), s.onlyPod(pool)
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.Image = "registry.example/works:2" })
	most := 0
	fixture.Eventually(t, limit, "a successor", func() error {
		pods := s.pods(pool)
		most = max(most, len(pods))
		if len(pods) == 1 && pods[0].UID != old.UID {
			return nil
		}
		return fmt.Errorf("%d pods", len(pods))
	})
	s.ready(pool)
	after := s.group(pool)
	if most > 1 {
		t.Errorf("%d pods at a time, want 1", most)
	}
	if after.Name == before.Name || after.Spec.Revision == before.Spec.Revision {
		t.Errorf("group %s became %s; want another revision", before.Name, after.Name)
	}
	if pod := s.onlyPod(pool); pod.Spec.Containers[0].Image != "registry.example/works:2" {
		t.Errorf("pod runs %s", pod.Spec.Containers[0].Image)
	}
	s.must(server.Client.Delete(s.ctx, pool))
	s.gone(pool)
}

// A router that never reports a complete drain is waited for until the deadline, and no longer.
func TestDrainDeadline(t *testing.T) {
	s := begin(t)
	pool := s.pool("late", 1, image(standin.ImageUndrained), func(p *v1alpha1.WorkerPool) {
		p.Spec.Drain.Timeout = &metav1.Duration{Duration: 3 * time.Second}
	})
	s.ready(pool)
	s.must(server.Client.Delete(s.ctx, pool))
	s.expect(pool, v1alpha1.ConditionDraining, metav1.ConditionTrue, v1alpha1.ReasonDraining, "drains since")
	s.expect(pool, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTerminating, "To force: kubectl annotate wpool late snakepit.dev/force-cleanup="+string(pool.UID))
	group := s.group(pool)
	if d := group.Spec.DrainRequest; d == nil || d.Cause != v1alpha1.DrainCauseDeleted || d.Deadline.Sub(d.StartedAt.Time) != 3*time.Second {
		t.Errorf("drain request %+v, want 3 s because Deleted", d)
	}
	s.gone(pool)
	if time.Now().Before(group.Spec.DrainRequest.Deadline.Time) {
		t.Errorf("gone before the deadline %s", group.Spec.DrainRequest.Deadline)
	}
}

// A pod deleted by hand is replaced, and the group names the new one.
func TestPodDeletedByHand(t *testing.T) {
	s := begin(t)
	pool := s.pool("hand", 1)
	s.ready(pool)
	old := s.onlyPod(pool)
	s.must(server.Client.Delete(s.ctx, &old))
	fixture.Eventually(t, limit, "a new pod", func() error {
		if pods := s.pods(pool); len(pods) == 1 && pods[0].UID != old.UID {
			return nil
		}
		return fmt.Errorf("no other pod yet")
	})
	fixture.Eventually(t, limit, "the group follows", func() error {
		if group, pod := s.group(pool), s.onlyPod(pool); group.Spec.PodUID != pod.UID || pod.Labels[v1alpha1.LabelServing] != "true" {
			return fmt.Errorf("group names %s, pod is %s", group.Spec.PodUID, pod.UID)
		}
		return nil
	})
	s.ready(pool)
}

// The operator is away while the pool is deleted; it cleans up when it is back.
func TestDeletedWhileDown(t *testing.T) {
	s := begin(t)
	pool := s.pool("down", 1)
	s.ready(pool)
	s.stop()
	s.must(server.Client.Delete(s.ctx, pool))
	s.must(s.get(pool))
	s.start()
	s.gone(pool)
}

// A pool that is deleted before the operator has seen it leaves nothing, and one of the same name is not mixed up with it.
func TestDeletedAndMadeAgain(t *testing.T) {
	s := begin(t)
	first := s.pool("same", 1)
	s.ready(first)
	s.stop()
	s.must(server.Client.Delete(s.ctx, first))
	s.start()
	var second *v1alpha1.WorkerPool
	fixture.Eventually(t, limit, "the name is free", func() error {
		second = fixture.NewPool(s.namespace, "same", 1)
		return server.Client.Create(s.ctx, second)
	})
	s.ready(second)
	if owner := metav1.GetControllerOf(s.group(second)); owner.UID != second.UID {
		t.Errorf("the group belongs to %s, want %s", owner.UID, second.UID)
	}
	s.must(server.Client.Delete(s.ctx, second))
	s.gone(second)
}

// What others change of our children is put back.
func TestDriftIsRepaired(t *testing.T) {
	s := begin(t)
	pool := s.pool("drift", 1)
	s.ready(pool)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "drift"}}
	fixture.Change(t, server.Client, limit, service, func(o *corev1.Service) {
		o.Spec.Selector, o.Labels = map[string]string{"app": "other"}, nil
	})
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "drift" + v1alpha1.RouterAccountSuffix}}
	s.must(server.Client.Delete(s.ctx, role))
	fixture.Eventually(t, limit, "Service and Role are back", func() error {
		if err := s.get(service); err != nil {
			return err
		}
		if err := s.get(role); err != nil {
			return err
		}
		if service.Spec.Selector[v1alpha1.LabelPoolUID] != string(pool.UID) || len(service.Spec.Selector) != 2 || service.Labels[v1alpha1.LabelPool] != "drift" {
			return fmt.Errorf("selector %v, labels %v", service.Spec.Selector, service.Labels)
		}
		return nil
	})
}

// A pool at rest costs no write.
func TestQuiet(t *testing.T) {
	s := begin(t)
	pool := s.pool("quiet", 2)
	s.ready(pool)
	versions := func() string {
		var all []string
		for _, list := range []client.ObjectList{&v1alpha1.WorkerPoolList{}, &v1alpha1.WorkerGroupList{}, &corev1.PodList{}, &corev1.ServiceList{}, &rbacv1.RoleList{}} {
			s.must(server.Client.List(s.ctx, list, client.InNamespace(s.namespace)))
			items, err := meta.ExtractList(list)
			s.must(err)
			for _, item := range items {
				o, err := meta.Accessor(item)
				s.must(err)
				all = append(all, o.GetName()+"@"+o.GetResourceVersion())
			}
		}
		return strings.Join(all, " ")
	}
	before := versions()
	<-time.After(3 * time.Second) // the window that must stay quiet
	if after := versions(); after != before {
		t.Errorf("objects changed at rest:\n%s\n%s", before, after)
	}
}

// The scale subresource changes the number of workers, and says which pods an autoscaler may count: none.
func TestScaleSubresource(t *testing.T) {
	s := begin(t)
	pool := s.pool("scaled", 1)
	s.ready(pool)
	scale := newScale()
	s.must(server.Client.SubResource("scale").Get(s.ctx, pool, scale))
	if scale.Spec.Replicas != 1 || scale.Status.Selector != pool.Status.Selector {
		t.Errorf("scale %+v", scale)
	}
	selected := &corev1.PodList{}
	parsed, err := metav1.ParseToLabelSelector(scale.Status.Selector)
	s.must(err)
	selector, err := metav1.LabelSelectorAsSelector(parsed)
	s.must(err)
	s.must(server.Client.List(s.ctx, selected, client.InNamespace(s.namespace), client.MatchingLabelsSelector{Selector: selector}))
	if len(selected.Items) != 0 {
		t.Errorf("the selector matches %d pods, want none", len(selected.Items))
	}
	// Without a resourceVersion, as the status may be written at any time.
	scale.Spec.Replicas, scale.ResourceVersion = 4, ""
	s.must(server.Client.SubResource("scale").Update(s.ctx, pool, client.WithSubResourceBody(scale)))
	s.ready(pool)
	if pool.Spec.Workers != 4 {
		t.Errorf("workers %d, want 4", pool.Spec.Workers)
	}
	scale.Spec.Replicas, scale.ResourceVersion = 33, ""
	if err := server.Client.SubResource("scale").Update(s.ctx, pool, client.WithSubResourceBody(scale)); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "workersPerPod") {
		t.Errorf("33 workers by scale: %v, want it refused for workersPerPod", err)
	}
}
