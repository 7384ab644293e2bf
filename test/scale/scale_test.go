package scale

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
)

const (
	// users act at the same time.
	users = 8
	// still is how long nothing may be written before a step counts as done.
	still = 3 * time.Second
	// rest is the window at rest, and after a restart, in which nothing may be written.
	rest = 10 * time.Second
	// telling is the time between two lines of progress.
	telling = 5 * time.Second
	// patience for one step of one pool; a step of n pools has n times that, and a minute.
	patience = time.Second
)

// cost of one size.
type cost struct {
	n                         int
	create, change, remove    time.Duration
	created, changed, removed usage
	atRest, restarted         usage
	perThousand               float64 // bytes of heap for 1,000 pools with a pod each
	// served is the CPU time of kube-apiserver in the three steps, for everybody: operator, users, kubelets and routers.
	served time.Duration
}

// TestR15 makes pools, changes them, leaves them alone, restarts the operator beside them and deletes them.
func TestR15(t *testing.T) {
	sizes := sizes(t)
	kubelet, err := standin.StartKubelet(server.Config, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kubelet.Stop() })
	var costs []cost
	for _, n := range sizes {
		t.Run(fmt.Sprintf("%d pools", n), func(t *testing.T) { costs = append(costs, measure(t, n)) })
	}
	if t.Failed() {
		return
	}
	report(t, costs)
}

func sizes(t *testing.T) []int {
	t.Helper()
	text := os.Getenv("SCALE")
	if text == "" {
		text = "20,60"
	}
	var found []int
	for _, part := range strings.Split(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 1 || n > 5000 {
			t.Fatalf("SCALE=%q: give it numbers of pools from 1 to 5000, such as 100,200,500,1000", text)
		}
		found = append(found, n)
	}
	return found
}

// crowd is n pools in one namespace. It counts them as they change: a look at all of them, again and again, would grow with n².
type crowd struct {
	n         int
	namespace string

	mu    sync.Mutex
	there map[string]bool // by name, whether it is Ready
	ready int
}

// note keeps the count; gone for a pool that is no more.
func (c *crowd) note(pool *v1alpha1.WorkerPool, gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.there[pool.Name] {
		c.ready--
	}
	if gone {
		delete(c.there, pool.Name)
		return
	}
	if c.there[pool.Name] = ready(pool); c.there[pool.Name] {
		c.ready++
	}
}

// count is how many pools there are, and how many of them are Ready.
func (c *crowd) count() (there, ready int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.there), c.ready
}

func measure(t *testing.T, n int) cost {
	c, result := newCrowd(t, n), cost{n: n}
	op := startOperator(t, kubeconfig, c.namespace)
	empty := op.heap(t)
	step := func(what string, act func(i int) error, want int) (time.Duration, usage) {
		before, began := op.used(t), time.Now()
		defer c.tell(t, what, began)()
		serving := served(t)
		c.all(t, act)
		took := c.await(t, what, began, want)
		settle(t, op)
		result.served += served(t) - serving
		return took, op.used(t).minus(before)
	}
	result.create, result.created = step("Ready", func(i int) error {
		return server.Client.Create(t.Context(), fixture.NewPool(c.namespace, name(i), 2))
	}, n)
	result.perThousand = (float64(op.heap(t)) - float64(empty)) / float64(n) * 1000
	result.atRest = quiet(t, op)
	patch := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"queue":{"maxLength":77}}}`))
	result.change, result.changed = step("changed", func(i int) error {
		return server.Client.Patch(t.Context(), fixture.NewPool(c.namespace, name(i), 2), patch)
	}, n)
	if err := op.stop(); err != nil {
		t.Fatal(err)
	}
	op = startOperator(t, kubeconfig, c.namespace)
	started := op.used(t)
	result.restarted = quiet(t, op)
	if w := started.Writes + started.Events; w > 0 {
		t.Errorf("%d writes at a start beside %d pools", w, n)
	}
	result.remove, result.removed = step("gone", func(i int) error {
		return server.Client.Delete(t.Context(), fixture.NewPool(c.namespace, name(i), 2))
	}, 0)
	if left, err := fixture.Leftovers(t.Context(), server.Client, c.namespace); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
	if err := op.stop(); err != nil {
		t.Error(err)
	}
	return result
}

func name(i int) string { return fmt.Sprintf("pool-%d", i) }

func newCrowd(t *testing.T, n int) *crowd {
	t.Helper()
	namespace, err := server.Namespace(t.Context(), "scale")
	if err != nil {
		t.Fatal(err)
	}
	seen, err := cache.New(server.Config, cache.Options{Scheme: server.Client.Scheme(), DefaultNamespaces: map[string]cache.Config{namespace: {}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- seen.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	c := &crowd{n: n, namespace: namespace, there: map[string]bool{}}
	informer, err := seen.GetInformer(t.Context(), &v1alpha1.WorkerPool{})
	if err == nil {
		_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { c.note(obj.(*v1alpha1.WorkerPool), false) },
			UpdateFunc: func(_, obj any) { c.note(obj.(*v1alpha1.WorkerPool), false) },
			DeleteFunc: func(obj any) {
				if last, missed := obj.(toolscache.DeletedFinalStateUnknown); missed {
					obj = last.Obj
				}
				c.note(obj.(*v1alpha1.WorkerPool), true)
			},
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// all has each pool's user act.
func (c *crowd) all(t *testing.T, act func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	for u := range users {
		wg.Go(func() {
			for i := u; i < c.n; i += users {
				if err := act(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// await looks until there are so many pools, all Ready, and returns how long that took.
func (c *crowd) await(t *testing.T, what string, began time.Time, want int) time.Duration {
	t.Helper()
	fixture.Eventually(t, time.Minute+time.Duration(c.n)*patience, fmt.Sprintf("%d pools are %s", c.n, what), func() error {
		if there, ready := c.count(); there != want || ready != want {
			return fmt.Errorf("%d of %d are Ready, wanted are %d", ready, there, want)
		}
		return nil
	})
	return time.Since(began)
}

// tell writes lines of progress until the function that it returns is called.
func (c *crowd) tell(t *testing.T, what string, began time.Time) func() {
	t.Helper()
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(telling)
		defer ticker.Stop()
		for open := true; open; {
			select {
			case <-ticker.C:
			case <-ended:
				open = false
			}
			there, ready := c.count()
			t.Logf("%d pools until they are %s, %3.0f s: %d there, %d Ready", c.n, what, time.Since(began).Seconds(), there, ready)
		}
	}()
	return func() {
		close(ended)
		<-done
	}
}

func ready(pool *v1alpha1.WorkerPool) bool {
	c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReady)
	return c != nil && c.Status == "True" && c.ObservedGeneration == pool.Generation &&
		meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReconciling) == nil
}

// served is what kube-apiserver has used so far.
func served(t *testing.T) time.Duration {
	t.Helper()
	used, err := server.CPU()
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// settle waits until the operator has stopped writing.
func settle(t *testing.T, op *operator) {
	t.Helper()
	last, since := op.used(t), time.Now()
	fixture.Eventually(t, time.Minute, "the operator stops writing", func() error {
		if now := op.used(t); now.Writes+now.Events != last.Writes+last.Events {
			last, since = now, time.Now()
		}
		if passed := time.Since(since); passed < still {
			return fmt.Errorf("it wrote %s ago", passed.Round(time.Millisecond))
		}
		return nil
	})
}

// quiet fails at the first write in the window.
func quiet(t *testing.T, op *operator) usage {
	t.Helper()
	before := op.used(t)
	end := time.NewTimer(rest)
	defer end.Stop()
	<-end.C
	used := op.used(t).minus(before)
	if used.Writes+used.Events > 0 {
		t.Errorf("at rest for %s, and the operator wrote %d times, and %d Events", rest, used.Writes, used.Events)
	}
	return used
}
