package faults

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// wish is what the user wants of the pool.
type wish struct {
	workers   int32
	image     string
	maxLength int32
}

// first is what a pool is created with; between and back are what the user wants meanwhile, in place of what the chapter says.
var (
	first   = wish{workers: 2, image: "registry.example/works:1", maxLength: 1000}
	between = int32(3)
	back    = first.image
)

// step is one thing that the user does, and then waits for.
type step struct {
	name string
	do   func(l *lifeOfPool)
	// done is what must be seen beside a Ready pool in a life that is to show the state; nil for nothing.
	done func(l *lifeOfPool) error
}

// chapter is a part of a pool's life: each is lived for itself, and has its own points.
type chapter struct {
	name  string
	steps []step
}

// The names of the steps that always happen; others are left out when the pool is deleted, or a fault was survived already.
const (
	stepCreate = "create"
	stepDelete = "delete"
	stepImage  = "image"
	stepLoss   = "loss"
)

// recycleText is the user's request for fresh processes.
const recycleText = "leak"

var (
	create = step{name: stepCreate, do: func(l *lifeOfPool) { l.create(first) }}
	end    = step{name: stepDelete, do: func(l *lifeOfPool) { l.delete() }}
)

// wants is a step that changes the spec.
func wants(name string, change func(w *wish)) step {
	return step{name: name, do: func(l *lifeOfPool) {
		change(&l.script)
		l.ask(l.script)
	}}
}

// chapters are the life of a pool. A whole one for each of its points would be too long: what the user does last would be done in all of them.
var chapters = []chapter{
	{"growth", []step{
		create,
		wants("up", func(w *wish) { w.workers = 4 }),
		wants("settings", func(w *wish) { w.maxLength = 50 }),
		wants("down", func(w *wish) { w.workers = 1 }),
		end,
	}},
	{"replacement", []step{
		create,
		wants(stepImage, func(w *wish) { w.image = "registry.example/works:2" }),
		{stepLoss, (*lifeOfPool).losePod, (*lifeOfPool).hasNewPod},
		{"recycle", (*lifeOfPool).recycle, (*lifeOfPool).recycled},
		end,
	}},
	{"again", []step{create, end, create, end}},
}

// act is what the user does between the fault and what follows.
type act string

const (
	restart      act = "restart"      // nothing: the operator starts again at once
	goesOn       act = "goesOn"       // nothing: the operator is well
	userDeletes  act = "userDeletes"  // deletes the pool
	userRescales act = "userRescales" // wants another number of workers
	userReverts  act = "userReverts"  // wants the first image again
	userReplaces act = "userReplaces" // puts an object of the same name in the place of the write's target; only while it is held
)

func (l *lifeOfPool) create(w wish) {
	l.t.Helper()
	l.pool = fixture.NewPool(l.namespace, "pool", w.workers)
	l.pool.Spec.Image, l.pool.Spec.Queue.MaxLength = w.image, w.maxLength
	l.script, l.asked, l.deleted, l.acted = w, w, false, time.Now()
	l.must(server.Client.Create(l.ctx, l.pool))
	l.story.tell("user", "creates the pool: %+v", w)
}

// ask changes the pool's spec.
func (l *lifeOfPool) ask(w wish) {
	l.t.Helper()
	l.asked, l.acted = w, time.Now()
	patch := fmt.Appendf(nil, `{"spec":{"workers":%d,"image":%q,"queue":{"maxLength":%d}}}`, w.workers, w.image, w.maxLength)
	l.must(client.IgnoreNotFound(server.Client.Patch(l.ctx, l.pool.DeepCopy(), client.RawPatch(types.MergePatchType, patch))))
	l.story.tell("user", "wants of the pool: %+v", w)
}

func (l *lifeOfPool) delete() {
	l.t.Helper()
	if l.deleted {
		return
	}
	l.deleted = true
	l.must(client.IgnoreNotFound(server.Client.Delete(l.ctx, l.pool.DeepCopy())))
	l.story.tell("user", "deletes the pool")
}

// losePod deletes the pod of the pool's group.
func (l *lifeOfPool) losePod() {
	l.t.Helper()
	pod := l.onlyGroup().Spec.PodUID
	var pods corev1.PodList
	l.must(server.Client.List(l.ctx, &pods, client.InNamespace(l.namespace)))
	for i := range pods.Items {
		if pods.Items[i].UID == pod {
			l.acted, l.lostPod = time.Now(), pod
			l.must(server.Client.Delete(l.ctx, &pods.Items[i]))
			l.story.tell("user", "deletes pod %s", pods.Items[i].Name)
			return
		}
	}
	l.t.Fatalf("the pool's group names pod %q, and there is none", pod)
}

func (l *lifeOfPool) hasNewPod() error {
	if pod := l.onlyGroup().Spec.PodUID; pod == l.lostPod {
		return errors.New("the pod that the user deleted is still the group's")
	}
	return nil
}

func (l *lifeOfPool) recycle() {
	l.t.Helper()
	l.acted = time.Now()
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationRecycle, recycleText)
	l.must(server.Client.Patch(l.ctx, l.pool.DeepCopy(), client.RawPatch(types.MergePatchType, patch)))
	l.story.tell("user", "asks for fresh processes")
}

func (l *lifeOfPool) recycled() error {
	if router := l.onlyGroup().Status.Router; router == nil || router.RecycleCompleted != recycleText {
		return errors.New("the router has not recycled its workers")
	}
	return nil
}

// onlyGroup is the group of a pool that is settled.
func (l *lifeOfPool) onlyGroup() *v1alpha1.WorkerGroup {
	l.t.Helper()
	var groups v1alpha1.WorkerGroupList
	l.must(server.Client.List(l.ctx, &groups, client.InNamespace(l.namespace)))
	if len(groups.Items) != 1 {
		l.t.Fatalf("the pool has %d groups, want 1", len(groups.Items))
	}
	return &groups.Items[0]
}

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
	switch l.point.how {
	case held:
		l.replace(l.wire.target)
		close(l.wire.goOn)
		l.delete()
		return
	case lost:
		l.acts()
		return
	}
	l.stop()
	l.acts()
	l.story.tell("operator", "starts again")
	if l.point.how == late {
		l.succeed(l.wire)
		return
	}
	l.restarted = time.Now()
	l.start(l.newWire(position{}, never))
}

// acts is what the user does about the pool meanwhile.
func (l *lifeOfPool) acts() {
	l.t.Helper()
	w := l.asked
	switch l.point.act {
	case userDeletes:
		l.delete()
	case userRescales:
		w.workers = between
		l.ask(w)
	case userReverts:
		w.image = back
		l.ask(w)
	}
}

// succeed starts a successor, and has the write of the one before arrive when it has looked and before its own first write.
func (l *lifeOfPool) succeed(crashed *wire) {
	l.t.Helper()
	next := l.newWire(position{}, never)
	next.open = make(chan struct{})
	l.start(next)
	nothingToDo := time.NewTimer(lag)
	defer nothingToDo.Stop()
	select {
	case <-next.asked:
	case <-nothingToDo.C:
	}
	next.fallBehind(crashed.target.resource)
	outcome, err := crashed.deliver()
	l.must(err)
	l.story.tell("operator", "the write of the crashed one arrives: %s", outcome)
	close(next.open)
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
	l.create(l.asked)
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
	case "poddisruptionbudgets":
		return &policyv1.PodDisruptionBudget{ObjectMeta: named}, &policyv1.PodDisruptionBudget{ObjectMeta: its}
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
	for _, o := range watcher.Seen(l.namespace) {
		if o.UID == l.foreign.GetUID() && o.Owner != "" {
			l.t.Errorf("%s was taken over", what)
		}
	}
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
	l.foreign = nil
}
