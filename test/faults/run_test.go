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
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

const (
	// limit is how long anything may take on a busy machine; what it should take is in the figures.
	limit = time.Minute
	// look is the time between two looks.
	look = 100 * time.Millisecond
	// settled is how long nothing is written before the user's next step, so that writes have the same number in each run.
	settled = 300 * time.Millisecond
	// calm is how long nothing is written before a life that is to show the state of a step shows it.
	calm = time.Second
	// quiet is how long a state that is reached must stay without a write.
	quiet = 2 * time.Second
)

// mark is where in the writes of a life a step begins.
type mark struct {
	writes int
	step   int
	// deleted: the pool is deleted from here on.
	deleted bool
}

// lifeOfPool is one chapter of the life of one pool in a namespace of its own, with at most one fault.
type lifeOfPool struct {
	t         *witness
	ctx       context.Context
	chapter   chapter
	point     point
	story     *story
	namespace string
	operator  *fixture.Operator
	wire      *wire
	pool      *v1alpha1.WorkerPool
	// script is what the chapter wants of the pool now, asked what the user asked for last, acted when he did.
	script, asked wish
	acted         time.Time
	lostPod       types.UID
	// deleted: the user has deleted the pool.
	deleted bool
	// faulted: the fault happened and the user has acted; survived: the goal of that step was reached.
	faulted, survived bool
	// restarted is when the successor of a crashed operator was started; recovery is how long it took until the step's goal was reached.
	restarted time.Time
	recovery  time.Duration
	forced    map[types.UID]bool
	foreign   client.Object
	// marks, the state at the end of each step, and the API calls since the start; for the golden run.
	marks  []mark
	states []map[string]string
	calls  map[string]int
	// untold: this life is no part of a failure.
	untold bool
}

func newLife(t *testing.T, c chapter, p point) *lifeOfPool {
	return &lifeOfPool{
		t: &witness{TB: t}, ctx: t.Context(), chapter: c, point: p, story: newStory(), forced: map[types.UID]bool{},
		states: make([]map[string]string, len(c.steps)),
	}
}

// begin starts an operator that will meet the point's fault.
func (l *lifeOfPool) begin() {
	l.t.Helper()
	l.t.Cleanup(func() {
		l.stop()
		watcher.forget(l.namespace)
		if l.t.Failed() && !l.untold {
			l.t.Logf("the story of %s/%s:\n%s", l.chapter.name, l.point, l.story)
		}
	})
	var err error
	l.namespace, err = server.Namespace(l.ctx, "faults")
	l.must(err)
	l.start(l.newWire(l.point.at, l.point.how))
	l.calls = l.wire.requests()
}

func (l *lifeOfPool) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lifeOfPool) newWire(at position, how moment) *wire {
	return newWire(l.story, server.Client.Scheme(), at, how)
}

func (l *lifeOfPool) start(w *wire) {
	l.t.Helper()
	l.wire = w
	operator, err := fixture.StartOperator(server.Config, fixture.OperatorOptions{
		Namespace: l.namespace, WrapTransport: w.wrap, Log: funcr.New(l.story.log, funcr.Options{}),
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

// live plays the chapter. What the pool must be like at the end of each step is golden; nil for a life that is to show it. When a fault was
// survived, and all is as it would be without, the rest of the chapter would be the golden one: then only what always happens is done.
func (l *lifeOfPool) live(golden []map[string]string) {
	l.t.Helper()
	for i, s := range l.chapter.steps {
		always := s.name == stepCreate || s.name == stepDelete
		if !always && (l.deleted || l.survived) {
			continue
		}
		l.wire.begin(i)
		writes, _ := l.wire.sent()
		l.marks = append(l.marks, mark{len(writes), i, s.name == stepDelete})
		s.do(l)
		if s.name == stepDelete {
			l.end(i == len(l.chapter.steps)-1)
			continue
		}
		l.reach(l.goal(i, golden))
		l.show(i, golden)
	}
	for verb, n := range l.wire.requests() {
		l.calls[verb] = n - l.calls[verb]
	}
}

// goal is when a step is done: the pool is Ready, and each of its objects as in the golden life. The pool's Ready alone is too early: it may
// be what the crashed operator wrote last, while its successor has not begun and the group's own status is still to come. A life that is to
// show the state waits until nothing was written for a while.
func (l *lifeOfPool) goal(i int, golden []map[string]string) func() error {
	return func() error {
		if err := l.ready(); err != nil || l.deleted || l.asked != l.script {
			return err
		}
		if golden == nil {
			_, last := l.wire.sent()
			if since := min(time.Since(last), time.Since(l.acted)); since < calm {
				return fmt.Errorf("the last write was %s ago", since)
			}
			if done := l.chapter.steps[i].done; done != nil {
				return done(l)
			}
			return nil
		}
		now, err := state(l.ctx, server.Client, l.namespace)
		if lines := difference(golden[i], now); err == nil && len(lines) > 0 {
			err = errors.New(strings.Join(lines, "; "))
		}
		return err
	}
}

// reach waits for the goal, whatever the user wanted meanwhile, or until the user has deleted the pool.
func (l *lifeOfPool) reach(goal func() error) {
	l.t.Helper()
	l.await("the pool is as it is wanted", goal)
	for !l.deleted && l.asked != l.script {
		l.ask(l.script)
		l.await("the pool is as it is wanted", goal)
	}
}

// show looks at the state at the end of a step. After a fault what counts is what is there when the operator has done its work: after the
// quiet window, not before.
func (l *lifeOfPool) show(i int, golden []map[string]string) {
	l.t.Helper()
	if l.deleted {
		return
	}
	if l.faulted && !l.survived {
		l.staysQuiet(l.chapter.steps[i].name)
	}
	l.survived = l.faulted
	var err error
	l.states[i], err = state(l.ctx, server.Client, l.namespace)
	l.must(err)
	if golden == nil {
		return
	}
	for _, line := range difference(golden[i], l.states[i]) {
		l.t.Error(line)
	}
}

// end waits until the deleted pool is gone, and nothing is left.
func (l *lifeOfPool) end(last bool) {
	l.t.Helper()
	l.await("the pool is gone", l.gone)
	if l.point.how != held {
		left, err := fixture.Leftovers(l.ctx, server.Client, l.namespace)
		l.must(err)
		if len(left) > 0 {
			l.t.Fatalf("%s was there when its owner, the pool, was gone", strings.Join(left, ", "))
		}
	}
	l.clear()
	l.await("nothing is left", func() error { return nothing(l.ctx, l.namespace) })
	if last || (l.faulted && !l.survived) {
		l.staysQuiet("deleted")
	}
	l.survived = l.faulted
	l.await("the audit has seen the end", l.audited)
}

func (l *lifeOfPool) ready() error {
	if l.deleted {
		return nil
	}
	pool := &v1alpha1.WorkerPool{}
	if err := server.Client.Get(l.ctx, client.ObjectKeyFromObject(l.pool), pool); err != nil {
		return err
	}
	if !claimsDone(pool) || pool.Status.ReadyWorkers != l.asked.workers {
		return fmt.Errorf("%d of %d workers: %s", pool.Status.ReadyWorkers, l.asked.workers, fixture.Conditions(pool.Status.Conditions))
	}
	return nil
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
	if err := watcher.Fault(); err != nil {
		l.t.Fatal(err)
	}
	for _, o := range watcher.Seen(l.namespace) {
		if o.Died == 0 && (o.Owner != "" || o.Kind == "WorkerPool") {
			return fmt.Errorf("%s lives", o.String())
		}
	}
	return nil
}

// await looks until the goal is reached and the operator has stopped writing: before the look, which takes a while and sees one kind after another,
// and during it. The fault, when it happens, is answered here.
func (l *lifeOfPool) await(what string, goal func() error) {
	l.t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		l.answerFault()
		l.harmless()
		writes, last := l.wire.sent()
		rested := time.Since(last) >= settled
		err := goal()
		if err == nil && !l.restarted.IsZero() {
			l.recovery, l.restarted = time.Since(l.restarted), time.Time{}
			l.story.tell("test", "%s, %d ms after the restart", what, l.recovery.Milliseconds())
		}
		if now, _ := l.wire.sent(); err == nil && rested && len(now) == len(writes) {
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

// harmless fails at the first look at which something was done that cannot be made good.
func (l *lifeOfPool) harmless() {
	l.t.Helper()
	_, groups := watcher.history(l.namespace)
	for _, line := range append(crowded(watcher.Seen(l.namespace), l.forced), unmarked(groups)...) {
		l.t.Fatal(line)
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
