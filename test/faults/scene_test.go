package faults

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// scene is one life in a namespace of its own. All of it but the operator runs in the test's goroutine.
type scene struct {
	t         *testing.T
	ctx       context.Context
	point     point
	story     *story
	namespace string
	pool      *v1alpha1.WorkerPool

	first    *wire // of the operator that is disturbed
	wire     *wire // of the one that runs
	operator *fixture.Operator

	disturbed bool
	deleted   bool
	rescaled  bool
	own       client.Object // the user's, in the place of a deletion's target
}

// live runs create → scale → delete, disturbed at the point, and judges it against the golden life unless it is that one.
func live(t *testing.T, p point, golden *result) *result {
	t.Helper()
	s := &scene{t: t, ctx: context.Background(), point: p, story: newStory()}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the story; repeat it with -run 'TestCrashAtEveryWrite/points/%s':\n%s", p, s.story)
		}
	})
	var err error
	s.namespace, err = server.Namespace(s.ctx, "faults")
	s.must(err)
	kubelet, err := fixture.StartKubelet(server.Config, s.namespace)
	s.must(err)
	defer func() { s.must(kubelet.Stop()) }()
	s.first = newWire(s.story, server.Client.Scheme(), p.k, p.how)
	s.start(s.first)
	defer func() { s.must(s.operator.Stop()) }()

	r := s.script()
	r.writes, _ = s.first.sent()
	r.replaced = s.own != nil
	s.judge(golden, r)
	return r
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) start(w *wire) {
	s.t.Helper()
	var err error
	s.wire = w
	s.operator, err = fixture.StartOperator(server.Config, fixture.OperatorOptions{
		Namespace: s.namespace, WrapTransport: w.wrap, Log: funcr.New(s.story.log, funcr.Options{}),
	})
	s.must(err)
}

// script is the life as the user wishes it.
func (s *scene) script() *result {
	s.t.Helper()
	r := &result{}
	s.pool = fixture.NewPool(s.namespace, "p", beginsWith)
	s.pool.Spec.Drain.Timeout = &metav1.Duration{Duration: time.Second}
	s.story.tell("user", "creates the pool")
	s.must(server.Client.Create(s.ctx, s.pool))
	s.until("ready", s.ready)
	if !s.deleted && !s.rescaled {
		s.story.tell("user", "scales to %d", scalesTo)
		s.scale(scalesTo)
	}
	s.until("ready after scaling", s.ready)
	if !s.deleted && !s.rescaled {
		s.until("quiet", s.quiet)
	}
	if !s.deleted && !s.rescaled {
		var err error
		r.scaled, err = state(s.ctx, server.Client, s.namespace)
		s.must(err)
	}
	s.delete("deletes the pool")
	s.until("nothing left", func() error { return nothing(s.ctx, s.namespace) })
	s.until("quiet", s.quiet)
	return r
}

// until waits, and carries out the disturbance when its time has come.
func (s *scene) until(what string, holds func() error) {
	s.t.Helper()
	fixture.Eventually(s.t, limit, what, func() error {
		s.disturb()
		return holds()
	})
}

func (s *scene) disturb() {
	select {
	case <-s.first.reached:
	default:
		return
	}
	if s.disturbed {
		return
	}
	s.disturbed = true
	if s.point.how == held {
		s.replace()
		close(s.first.goOn)
		return
	}
	s.must(s.operator.Stop())
	switch s.point.act {
	case userDeletes:
		s.delete("deletes the pool while the operator is down")
	case userRescales:
		s.rescaled = true
		s.story.tell("user", "scales to %d while the operator is down", userWants)
		s.scale(userWants)
	}
	s.story.tell("operator", "starts again")
	s.start(newWire(s.story, server.Client.Scheme(), 0, never))
}

func (s *scene) delete(how string) {
	s.t.Helper()
	s.deleted = true
	s.story.tell("user", "%s", how)
	s.must(client.IgnoreNotFound(server.Client.Delete(s.ctx, s.pool)))
}

func (s *scene) scale(workers int32) {
	s.t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"workers":%d}}`, workers)
	s.must(client.IgnoreNotFound(server.Client.Patch(s.ctx, s.pool.DeepCopy(), client.RawPatch("application/merge-patch+json", patch))))
}

// ready: the pool says so for its present generation; a pool that the user deleted needs no readiness.
func (s *scene) ready() error {
	if s.deleted {
		return nil
	}
	if err := server.Client.Get(s.ctx, client.ObjectKeyFromObject(s.pool), s.pool); err != nil {
		return err
	}
	c := meta.FindStatusCondition(s.pool.Status.Conditions, v1alpha1.ConditionReady)
	moving := meta.FindStatusCondition(s.pool.Status.Conditions, v1alpha1.ConditionReconciling) != nil
	if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != s.pool.Generation || moving || s.pool.Status.ReadyWorkers != s.pool.Spec.Workers {
		return fmt.Errorf("%s ready: %s", s.pool.Status.ReadySummary, fixture.Conditions(s.pool.Status.Conditions))
	}
	return nil
}

// quiet: the operator has written nothing for a while.
func (s *scene) quiet() error {
	if writes, last := s.wire.sent(); time.Since(last) < quietFor {
		return fmt.Errorf("write %d was %s ago", len(writes), time.Since(last).Round(time.Millisecond))
	}
	return nil
}

// replace puts an object of the user's own in the place of the held deletion's target.
func (s *scene) replace() {
	writes, _ := s.first.sent()
	target := writes[s.point.k-1]
	named := metav1.ObjectMeta{Namespace: s.namespace, Name: target.name}
	var old, own client.Object
	switch {
	case target.verb != "DELETE":
		return
	case target.resource == "services":
		old, own = &corev1.Service{}, &corev1.Service{ObjectMeta: named, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	case target.resource == "serviceaccounts":
		old, own = &corev1.ServiceAccount{}, &corev1.ServiceAccount{ObjectMeta: named}
	case target.resource == "roles":
		old, own = &rbacv1.Role{}, &rbacv1.Role{ObjectMeta: named}
	default:
		return
	}
	old.SetNamespace(s.namespace)
	old.SetName(target.name)
	s.story.tell("user", "replaces %s by an object of his own", target)
	s.must(client.IgnoreNotFound(server.Client.Delete(s.ctx, old)))
	s.eventually(func() error { return server.Client.Create(s.ctx, own) })
	s.own = own
}

func (s *scene) eventually(try func() error) {
	s.t.Helper()
	fixture.Eventually(s.t, limit, "the user's own object", try)
}

// judge holds the life against the oracles.
func (s *scene) judge(golden, r *result) {
	s.t.Helper()
	var lives []life
	fixture.Eventually(s.t, limit, "the audit has seen the end", func() error {
		lives = ledger.seen(s.namespace)
		for _, l := range lives {
			if l.owner != "" && l.died == 0 {
				return fmt.Errorf("%s lives", l.String())
			}
		}
		return nil
	})
	r.creates = creates(lives)
	problems := append(outlived(lives, nil), crowded(lives)...)
	problems = append(problems, s.story.sawPanic()...)
	if golden != nil {
		for name, n := range r.creates {
			if n > golden.creates[name] {
				problems = append(problems, fmt.Sprintf("%s was made %d times, golden %d", name, n, golden.creates[name]))
			}
		}
		if r.scaled != nil {
			problems = append(problems, difference(golden.scaled, r.scaled)...)
		}
	}
	if s.own != nil {
		uid := s.own.GetUID()
		err := server.Client.Get(s.ctx, client.ObjectKeyFromObject(s.own), s.own)
		if apierrors.IsNotFound(err) || err == nil && s.own.GetUID() != uid {
			problems = append(problems, "the operator deleted the user's own "+s.own.GetName())
		}
	}
	if len(problems) > 0 {
		s.t.Errorf("%s:\n  %s", s.point, strings.Join(problems, "\n  "))
	}
}
