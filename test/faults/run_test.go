package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

const (
	// limit is how long anything may take on a busy machine; what it should take is in the figures.
	limit = time.Minute
	// look is the time between two looks.
	look = 50 * time.Millisecond
	// settled is how long nothing is written before the user's next step, so that writes have the same number in each run.
	settled = 300 * time.Millisecond
	// quiet is how long a state that is reached must stay without a write.
	quiet = 2 * time.Second
)

// The wanted workers of the life cycle, and what the user wants meanwhile.
const (
	workersFirst   = 2
	workersScaled  = 4
	workersBetween = 3
)

// lifeOfPool is one life cycle of one pool in a namespace of its own, with at most one fault.
type lifeOfPool struct {
	t         *witness
	ctx       context.Context
	point     point
	story     *story
	namespace string
	operator  *fixture.Operator
	wire      *wire
	pool      *v1alpha1.WorkerPool
	// want is the number of workers that the user asked for last.
	want int32
	// deleted: the user has deleted the pool.
	deleted bool
	// faulted: the fault happened and the user has acted.
	faulted bool
	// restarted is when the successor of a crashed operator was started; recovery is how long it took until the step's goal was reached.
	restarted time.Time
	recovery  time.Duration
	forced    map[types.UID]bool
	foreign   client.Object
	// writes at the end of each step, and the state when it was scaled; for the golden run.
	steps  []int
	scaled map[string]string
	// untold: this life is no part of a failure.
	untold bool
}

func newLife(t *testing.T, p point) *lifeOfPool {
	return &lifeOfPool{t: &witness{TB: t}, ctx: t.Context(), point: p, story: newStory(), forced: map[types.UID]bool{}}
}

// begin starts an operator that will meet the point's fault.
func (l *lifeOfPool) begin() {
	l.t.Helper()
	l.t.Cleanup(func() {
		l.stop()
		if l.t.Failed() && !l.untold {
			l.t.Logf("the story of %s:\n%s", l.point, l.story)
		}
	})
	var err error
	l.namespace, err = server.Namespace(l.ctx, "faults")
	l.must(err)
	l.start(l.point.at, l.point.how)
}

func (l *lifeOfPool) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lifeOfPool) start(at position, how moment) {
	l.t.Helper()
	l.wire = newWire(l.story, server.Client.Scheme(), at, how)
	operator, err := fixture.StartOperator(server.Config, fixture.OperatorOptions{
		Namespace: l.namespace, WrapTransport: l.wire.wrap, Log: funcr.New(l.story.log, funcr.Options{}),
	})
	l.must(err)
	l.operator = operator
}

func (l *lifeOfPool) stop() {
	if l.operator == nil {
		return
	}
	if err := l.operator.Stop(); err != nil {
		l.t.Errorf("the operator did not stop: %v", err)
	}
	l.operator = nil
}

// live plays the whole life: create, scale, delete. Scaled is what the pool must be like in between; nil for a life that is to show it.
func (l *lifeOfPool) live(scaled map[string]string) {
	l.t.Helper()
	l.create(workersFirst)
	l.reach(workersFirst, l.ready)
	if !l.deleted {
		l.scale(workersScaled)
		l.reach(workersScaled, l.becomes(scaled))
	}
	if !l.deleted {
		if l.faulted {
			l.staysQuiet("scaled")
		}
		// What counts is what is there when the operator has done its work: after the quiet window, not before.
		var err error
		l.scaled, err = state(l.ctx, server.Client, l.namespace)
		l.must(err)
	}
	l.delete()
	l.await("the pool is gone", l.gone)
	l.clear()
	l.await("nothing is left", func() error { return nothing(l.ctx, l.namespace) })
	l.staysQuiet("deleted")
	l.await("the audit has seen the end", l.audited)
}

func (l *lifeOfPool) create(workers int32) {
	l.t.Helper()
	l.pool, l.want = fixture.NewPool(l.namespace, "pool", workers), workers
	l.must(server.Client.Create(l.ctx, l.pool))
	l.story.tell("user", "creates the pool with %d workers", workers)
}

func (l *lifeOfPool) scale(workers int32) {
	l.t.Helper()
	l.want = workers
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"workers":%d}}`, workers))
	l.must(client.IgnoreNotFound(server.Client.Patch(l.ctx, l.pool.DeepCopy(), patch)))
	l.story.tell("user", "scales the pool to %d workers", workers)
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

// reach waits for the goal with n workers, whatever the user wanted meanwhile, or until the user has deleted the pool.
func (l *lifeOfPool) reach(n int32, goal func() error) {
	l.t.Helper()
	for first := true; first || (l.want != n && !l.deleted); first = false {
		if !first {
			l.scale(n)
		}
		l.await("the pool is ready", goal)
	}
	writes, _ := l.wire.sent()
	l.steps = append(l.steps, len(writes))
}

func (l *lifeOfPool) ready() error {
	if l.deleted {
		return nil
	}
	pool := &v1alpha1.WorkerPool{}
	if err := server.Client.Get(l.ctx, client.ObjectKeyFromObject(l.pool), pool); err != nil {
		return err
	}
	c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReady)
	done := c != nil && c.Status == "True" && c.ObservedGeneration == pool.Generation && pool.Status.ReadyWorkers == l.want &&
		meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReconciling) == nil
	if !done {
		return fmt.Errorf("%d of %d workers: %s", pool.Status.ReadyWorkers, l.want, fixture.Conditions(pool.Status.Conditions))
	}
	return nil
}

// becomes is the goal of a scaled pool: ready, and each of its objects as in the golden life. The pool's Ready alone is too early: it may be
// what the crashed operator wrote last, while its successor has not begun and the group's own status is still to come. A life that is to
// show the state waits until nothing was written for the quiet window.
func (l *lifeOfPool) becomes(scaled map[string]string) func() error {
	return func() error {
		if err := l.ready(); err != nil || l.deleted || l.want != workersScaled {
			return err
		}
		if scaled == nil {
			if _, last := l.wire.sent(); time.Since(last) < quiet {
				return fmt.Errorf("the last write was less than %s ago", quiet)
			}
			return nil
		}
		now, err := state(l.ctx, server.Client, l.namespace)
		if lines := difference(scaled, now); err == nil && len(lines) > 0 {
			err = errors.New(strings.Join(lines, "; "))
		}
		return err
	}
}

func (l *lifeOfPool) gone() error {
	pool := &v1alpha1.WorkerPool{}
	err := server.Client.Get(l.ctx, client.ObjectKeyFromObject(l.pool), pool)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("the pool is there: %s", fixture.Conditions(pool.Status.Conditions))
}

// audited says whether the watches have shown that nothing is left.
func (l *lifeOfPool) audited() error {
	if err := watcher.fault(); err != nil {
		l.t.Fatal(err)
	}
	for _, o := range watcher.seen(l.namespace) {
		if o.died == 0 && (o.owner != "" || o.kind == "WorkerPool") {
			return fmt.Errorf("%s lives", o.String())
		}
	}
	return nil
}

// await looks until the goal is reached and the operator has stopped writing. The fault, when it happens, is answered here.
func (l *lifeOfPool) await(what string, goal func() error) {
	l.t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		l.answerFault()
		err := goal()
		if err == nil && !l.restarted.IsZero() {
			l.recovery, l.restarted = time.Since(l.restarted), time.Time{}
			l.story.tell("test", "%s, %d ms after the restart", what, l.recovery.Milliseconds())
		}
		if _, last := l.wire.sent(); err == nil && time.Since(last) >= settled {
			return
		}
		select {
		case <-deadline.C:
			l.story.tell("test", "not within %s: %s: %v", limit, what, err)
			l.t.Fatalf("not within %s: %s: %v", limit, what, err)
		case <-ticker.C:
		}
	}
}

// staysQuiet fails at the first write in a state that is reached.
func (l *lifeOfPool) staysQuiet(when string) {
	l.t.Helper()
	end := time.NewTimer(quiet)
	defer end.Stop()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	start, _ := l.wire.sent()
	for {
		if writes, _ := l.wire.sent(); len(writes) > len(start) {
			l.t.Fatalf("%s, and still written within %s: %v", when, quiet, writes[len(start):])
		}
		select {
		case <-end.C:
			return
		case <-ticker.C:
		}
	}
}

// vanish removes this very object at once, its finalizers too, and waits until it is gone. The operator may be faster than the user's next
// look: another object of the same name, with a UID of its own, is none of this.
func (l *lifeOfPool) vanish(o client.Object) {
	l.t.Helper()
	uid := o.GetUID()
	err := server.Client.Delete(l.ctx, o.DeepCopyObject().(client.Object), client.GracePeriodSeconds(0), client.Preconditions{UID: &uid})
	l.must(ignoreAnother(err))
	if _, isPod := o.(*corev1.Pod); !isPod {
		patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"uid":%q,"finalizers":null}}`, uid))
		l.must(ignoreAnother(server.Client.Patch(l.ctx, o.DeepCopyObject().(client.Object), patch)))
	}
	fixture.Eventually(l.t, limit, "the user's delete", func() error {
		err := server.Client.Get(l.ctx, client.ObjectKeyFromObject(o), o)
		if err == nil && o.GetUID() == uid {
			return fmt.Errorf("%s is there", o.GetName())
		}
		return client.IgnoreNotFound(err)
	})
}

// ignoreAnother drops what a write to one UID gets when that object is gone, or when another has its name: a patch cannot change a UID.
func ignoreAnother(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err) {
		return nil
	}
	return err
}
