package workerpool

import (
	"context"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/catchup"
	"github.com/snakepit-k8s/snakepit/controllers/workerpool/plan"
	"github.com/snakepit-k8s/snakepit/controllers/writer"
)

// live is an API server that holds one pool or none, and nothing else.
type live struct {
	client.Reader
	pool *v1alpha1.WorkerPool
}

func (l *live) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	if l.pool == nil {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "pool"}, key.Name)
	}
	l.pool.DeepCopyInto(into.(*v1alpha1.WorkerPool))
	return nil
}

func (l *live) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }

// patches counts.
type patches struct {
	client.Client
	n int
}

func (p *patches) Patch(context.Context, client.Object, client.Patch, ...client.PatchOption) error {
	p.n++
	return nil
}

// The cache shows a pool that ends. When it has not seen yet that the pool was let go, nothing more may be written.
func TestReleaseOnce(t *testing.T) {
	ending := func(uid types.UID, finalizers ...string) *v1alpha1.WorkerPool {
		ended := metav1.Unix(1, 0)
		return &v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "it", UID: uid, DeletionTimestamp: &ended, Finalizers: finalizers}}
	}
	for _, c := range []struct {
		name   string
		live   *v1alpha1.WorkerPool
		writes int
	}{
		{"held", ending("a", v1alpha1.Finalizer), 1},
		{"gone", nil, 0},
		{"let go, and held by another finalizer", ending("a", "somebody.example/else"), 0},
		{"gone, and another has its name", ending("b", v1alpha1.Finalizer), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			sent := &patches{}
			r := &Reconciler{Writer: &writer.Writer{Client: sent, Live: &live{pool: c.live}}, Clock: clock.RealClock{}}
			if err := r.release(t.Context(), ending("a", v1alpha1.Finalizer)); err != nil || sent.n != c.writes {
				t.Errorf("%d writes (%v), want %d", sent.n, err, c.writes)
			}
		})
	}
}

// creations keeps what is made.
type creations struct {
	client.Client
	made []client.Object
}

func (c *creations) Create(_ context.Context, obj client.Object, _ ...client.CreateOption) error {
	c.made = append(c.made, obj)
	return nil
}

// A group is made with the request for fresh processes that is there already: its router finds it when it begins, and takes it for carried out.
// Told a moment later, it would replace workers that are fresh.
func TestNewGroupKnowsTheRequest(t *testing.T) {
	sent := &creations{}
	r := &Reconciler{Writer: &writer.Writer{Client: sent, Live: &live{}, Ledger: catchup.NewLedger(clock.RealClock{})}, Events: &events.FakeRecorder{}, Clock: clock.RealClock{}}
	obs := look(t, func(o *observation) {
		o.groups = nil
		o.pool.Annotations = map[string]string{v1alpha1.AnnotationRecycle: "of before: 1"}
	})
	if err := r.createGroup(t.Context(), obs, plan.CreateGroup{}); err != nil || len(sent.made) != 1 {
		t.Fatalf("%v, made %v", err, sent.made)
	}
	if got := sent.made[0].(*v1alpha1.WorkerGroup).Spec.RecycleRequest; got == nil || got.ID != "of before: 1" {
		t.Errorf("the group was made with the request %+v", got)
	}
}
