package faults

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// act is what the user does between the fault and what follows.
type act string

const (
	restart      act = "restart"      // nothing: the operator starts again at once
	userDeletes  act = "userDeletes"  // deletes the pool
	userRescales act = "userRescales" // wants another number of workers
	userReplaces act = "userReplaces" // puts an object of the same name in the place of the write's target; only while it is held
)

// answerFault does, once, what the point says after its fault has happened.
func (l *lifeOfPool) answerFault() {
	l.t.Helper()
	select {
	case <-l.wire.reached:
	default:
		return
	}
	if l.faulted {
		return
	}
	l.faulted = true
	if l.point.how == held {
		l.replace(l.wire.target)
		close(l.wire.goOn)
		l.delete()
		return
	}
	l.stop()
	switch l.point.act {
	case userDeletes:
		l.delete()
	case userRescales:
		l.scale(workersBetween)
	}
	l.story.tell("operator", "starts again")
	l.restarted = time.Now()
	l.start(position{}, never)
}

// replace has the user remove the target of a write, if it is there, and make something of his own that has its name. A pool that works
// cannot be replaced without the operator: the finalizer holds it; it is deleted like everywhere else.
func (l *lifeOfPool) replace(target write) {
	l.t.Helper()
	if target.resource == "workerpools" {
		l.replacePool()
		return
	}
	have, foreign := l.users(target)
	// The operator may be faster and make the object anew: then the user tries again.
	fixture.Eventually(l.t, limit, "the user's own object", func() error {
		l.remove(have, foreign)
		return server.Client.Create(l.ctx, foreign)
	})
	l.foreign = foreign
	l.story.tell("user", "makes %s/%s of his own", target.resource, target.name)
}

// remove takes the target of a write away, if it is there. A group of the user's own gets the same spec.
func (l *lifeOfPool) remove(have, foreign client.Object) {
	l.t.Helper()
	err := server.Client.Get(l.ctx, client.ObjectKeyFromObject(have), have)
	l.must(client.IgnoreNotFound(err))
	if err != nil {
		return
	}
	if group, isGroup := have.(*v1alpha1.WorkerGroup); isGroup {
		l.forced[group.UID] = true
		spec := group.Spec.DeepCopy()
		spec.PodUID, spec.DrainRequest = "", nil
		foreign.(*v1alpha1.WorkerGroup).Spec = *spec
	}
	l.vanish(have)
	l.story.tell("user", "removes %T %s", have, have.GetName())
}

func (l *lifeOfPool) replacePool() {
	l.t.Helper()
	have := &v1alpha1.WorkerPool{}
	err := server.Client.Get(l.ctx, client.ObjectKeyFromObject(l.pool), have)
	l.must(client.IgnoreNotFound(err))
	all, stateErr := state(l.ctx, server.Client, l.namespace)
	l.must(stateErr)
	if err != nil || len(all) > 1 {
		return
	}
	l.vanish(have)
	l.story.tell("user", "removes the pool, of which nothing else is there")
	l.deleted = false
	l.create(l.want)
}

// users returns an empty object of the target's kind and name, and one that the user makes instead.
func (l *lifeOfPool) users(target write) (have, foreign client.Object) {
	l.t.Helper()
	its := metav1.ObjectMeta{Namespace: l.namespace, Name: target.name, Labels: map[string]string{"made-by": "the-user"}}
	named := metav1.ObjectMeta{Namespace: l.namespace, Name: target.name}
	switch target.resource {
	case "workergroups":
		group := &v1alpha1.WorkerGroup{ObjectMeta: its}
		if made, ok := target.object.(*v1alpha1.WorkerGroup); ok {
			made.Spec.DeepCopyInto(&group.Spec)
		}
		return &v1alpha1.WorkerGroup{ObjectMeta: named}, group
	case "pods":
		spec := corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "registry.example/of-the-user:1"}}}
		return &corev1.Pod{ObjectMeta: named}, &corev1.Pod{ObjectMeta: its, Spec: spec}
	case "services":
		spec := corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}
		return &corev1.Service{ObjectMeta: named}, &corev1.Service{ObjectMeta: its, Spec: spec}
	case "serviceaccounts":
		return &corev1.ServiceAccount{ObjectMeta: named}, &corev1.ServiceAccount{ObjectMeta: its}
	case "roles":
		return &rbacv1.Role{ObjectMeta: named}, &rbacv1.Role{ObjectMeta: its}
	case "rolebindings":
		ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: target.name}
		return &rbacv1.RoleBinding{ObjectMeta: named}, &rbacv1.RoleBinding{ObjectMeta: its, RoleRef: ref}
	}
	l.t.Fatalf("the operator wrote %s: no user's object is known for it", target)
	return nil, nil
}

// clear checks that what the user made is as he made it, and has him remove it.
func (l *lifeOfPool) clear() {
	l.t.Helper()
	if l.foreign == nil {
		return
	}
	now := l.foreign.DeepCopyObject().(client.Object)
	err := server.Client.Get(l.ctx, client.ObjectKeyFromObject(now), now)
	what := fmt.Sprintf("%T %s, which the user made,", l.foreign, l.foreign.GetName())
	switch {
	case apierrors.IsNotFound(err):
		l.t.Fatalf("%s was deleted", what)
	case err != nil:
		l.t.Fatal(err)
	case now.GetUID() != l.foreign.GetUID() || now.GetDeletionTimestamp() != nil:
		l.t.Errorf("%s was deleted", what)
	case len(now.GetOwnerReferences()) > 0 || len(now.GetLabels()) != 1:
		l.t.Errorf("%s was changed: owners %v, labels %v", what, now.GetOwnerReferences(), now.GetLabels())
	}
	l.must(client.IgnoreNotFound(server.Client.Delete(l.ctx, now)))
	l.story.tell("user", "removes what is his")
}
