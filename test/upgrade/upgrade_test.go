package upgrade

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
	"github.com/snakepit-k8s/snakepit/test/fixture/wire"
)

const (
	// limit is how long anything may take on a busy machine.
	limit = 60 * time.Second
	// quiet is how long an operator must write nothing, to have finished.
	quiet = 5 * time.Second
	// writesPerPool bounds what an upgrade may cost: new children, new conditions.
	writesPerPool = 12
)

// pools are of every kind that has a revision, or a state, of its own.
var pools = map[string]func(*v1alpha1.WorkerPool){
	"smallest": func(*v1alpha1.WorkerPool) {},
	"zero":     func(p *v1alpha1.WorkerPool) { p.Spec.Workers = 0 },
	"threads": func(p *v1alpha1.WorkerPool) {
		p.Spec.Profile, p.Spec.Slots = "Thread", 4
	},
	"settings": func(p *v1alpha1.WorkerPool) {
		p.Spec.Args = []string{"--model", "small"}
		p.Spec.Drain.Timeout = &metav1.Duration{Duration: time.Minute}
		p.Spec.Cleanup.Timeout = &metav1.Duration{Duration: time.Minute}
		p.Annotations = map[string]string{v1alpha1.AnnotationRecycle: "once"}
	},
	"template": func(p *v1alpha1.WorkerPool) {
		p.Spec.Template = &v1alpha1.PodTemplate{
			Metadata: &v1alpha1.TemplateMetadata{Labels: map[string]string{"team": "ml"}},
			Spec: &v1alpha1.PodTemplateSpec{
				NodeSelector: map[string]string{"disk": "fast"},
				Containers: []corev1.Container{{Name: v1alpha1.WorkerContainer, Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}}}},
			},
		}
	},
	// Its workers die again and again: that must not look like news to the new operator.
	"looping": func(p *v1alpha1.WorkerPool) { p.Spec.Image = "registry.example/" + standin.ImageLooping + ":1" },
}

// object is what must stay as it is through an upgrade.
type object struct {
	uid, revision string
	draining      bool
	spec          string // of pods
}

func TestUpgrade(t *testing.T) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	namespace, err := server.Namespace(ctx, "upgrade")
	must(err)
	install(t, oldCRDs)
	kubelet, err := standin.StartKubelet(server.Config, namespace)
	must(err)
	t.Cleanup(func() {
		if err := kubelet.Stop(); err != nil {
			t.Errorf("kubelet: %v", err)
		}
	})
	old, _ := start(t, oldBinary, namespace, "old")
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		pool := fixture.NewPool(namespace, name, 2)
		pools[name](pool)
		must(server.Client.Create(ctx, pool))
	}
	settled(t, namespace)
	before, generations := look(t, namespace)
	if len(before) != 2*len(pools) {
		t.Fatalf("the old operator made %d groups and pods, want %d", len(before), 2*len(pools))
	}

	install(t, filepath.Join(fixture.Root(), "config", "crd", "bases"))
	current, gate := takeOver(t, old, newBinary, namespace, "new")
	report(t, "", before, seen(t, namespace), gate, len(pools))
	stillValid(ctx, t, namespace, generations)

	// The way back, with a pool more that uses what the old operator does not know. The CRDs stay.
	must(server.Client.Create(ctx, withNewFields(namespace)))
	settled(t, namespace)
	before, generations = look(t, namespace)
	current, gate = takeOver(t, current, oldBinary, namespace, "old-again")
	report(t, "back: ", before, seen(t, namespace), gate, len(pools)+1)
	stillValid(ctx, t, namespace, generations)
	deletedBy(ctx, t, namespace, "threads")
	before, _ = look(t, namespace)
	_, gate = takeOver(t, current, newBinary, namespace, "new-again")
	report(t, "forth again: ", before, seen(t, namespace), gate, len(pools))
	newFieldsKept(ctx, t, namespace)
	lifeGoesOn(ctx, t, namespace)
}

// takeOver ends one operator as a rollout does, starts another and waits until that one is at rest.
func takeOver(t *testing.T, running *fixture.Program, binary, namespace, name string) (*fixture.Program, *wire.Gate) {
	t.Helper()
	if err := running.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if _, err := running.ExitCode(limit); err != nil {
		t.Fatal(err)
	}
	program, gate := start(t, binary, namespace, name)
	atRest(t, gate)
	settled(t, namespace)
	return program, gate
}

// report fails for every difference and for too many writes, and notes the figures.
func report(t *testing.T, step string, before, after map[string]object, gate *wire.Gate, of int) {
	t.Helper()
	restarts, revisions, drains := differences(t, before, after)
	writes := gate.Since(time.Time{})
	perPool := float64(len(writes)) / float64(of)
	if perPool > writesPerPool {
		t.Errorf("%sthe operator made %d writes for %d pools, want at most %d a pool: %v", step, len(writes), of, writesPerPool, writes)
	}
	if err := fixture.AppendFigures([]fixture.Figure{
		figure(step+"pods restarted or deleted", restarts, "pods", of), figure(step+"groups replaced", revisions, "groups", of),
		figure(step+"drains begun", drains, "drains", of),
		{ID: "R13", Figure: step + "writes of the operator for each pool", Value: perPool, Unit: "writes", Bound: fmt.Sprintf("<=%d", writesPerPool),
			OK: perPool <= writesPerPool, Runs: of, Command: "make faults"},
	}); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("R13: %sfrom %s: %d pods restarted, %d groups replaced, %d drains, %.1f writes a pool\n", step, from, restarts, revisions, drains, perPool)
}

func figure(what string, n int, unit string, of int) fixture.Figure {
	return fixture.Figure{ID: "R13", Figure: what, Value: float64(n), Unit: unit, Bound: "<=0", OK: n == 0, Runs: of, Command: "make faults"}
}

func install(t *testing.T, folder string) {
	t.Helper()
	if _, err := envtest.InstallCRDs(server.Config, envtest.CRDInstallOptions{Paths: []string{folder}, ErrorIfPathMissing: true}); err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, binary, namespace, name string) (*fixture.Program, *wire.Gate) {
	t.Helper()
	gate, err := wire.OpenGate(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gate.Close)
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := fixture.Kubeconfig(kubeconfig, gate.URL); err != nil {
		t.Fatal(err)
	}
	// Each release brings a router image of its own name; a running pod keeps the old one.
	p, err := fixture.StartOperatorProgram(binary, dir, name, kubeconfig, namespace, "--router-image=router.example/snakepit:"+name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if said, err := os.ReadFile(p.Log); t.Failed() && err == nil {
			t.Logf("the %s operator said:\n%s", name, said[max(0, len(said)-3000):])
		}
	})
	return p, gate
}

// settled waits until each pool is Ready or, by its image, Stalled.
func settled(t *testing.T, namespace string) {
	t.Helper()
	fixture.Eventually(t, limit, "pools settled", func() error {
		var list v1alpha1.WorkerPoolList
		if err := server.Client.List(t.Context(), &list, client.InNamespace(namespace)); err != nil {
			return err
		}
		for _, pool := range list.Items {
			want := v1alpha1.ConditionReady
			if strings.Contains(pool.Spec.Image, standin.ImageLooping) {
				want = v1alpha1.ConditionStalled
			}
			c := meta.FindStatusCondition(pool.Status.Conditions, want)
			busy := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReconciling) != nil
			if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != pool.Generation || busy {
				return fmt.Errorf("%s: %s", pool.Name, fixture.Conditions(pool.Status.Conditions))
			}
		}
		return nil
	})
}

// look reads every group and pod by kind and name, and the pools' generations.
func look(t *testing.T, namespace string) (map[string]object, map[string]int64) {
	t.Helper()
	var list v1alpha1.WorkerPoolList
	var groups v1alpha1.WorkerGroupList
	var pods corev1.PodList
	for _, l := range []client.ObjectList{&list, &groups, &pods} {
		if err := server.Client.List(t.Context(), l, client.InNamespace(namespace)); err != nil {
			t.Fatal(err)
		}
	}
	found, generations := map[string]object{}, map[string]int64{}
	for _, g := range groups.Items {
		found["group "+g.Name] = object{string(g.UID), g.Spec.Revision, g.Spec.DrainRequest != nil || g.DeletionTimestamp != nil, ""}
	}
	for _, p := range pods.Items {
		spec, err := json.Marshal(p.Spec)
		if err != nil {
			t.Fatal(err)
		}
		found["pod "+p.Name] = object{string(p.UID), p.Labels[v1alpha1.LabelRevision], p.DeletionTimestamp != nil, string(spec)}
	}
	for _, p := range list.Items {
		generations[p.Name] = p.Generation
	}
	return found, generations
}

// seen is look without the generations.
func seen(t *testing.T, namespace string) map[string]object {
	t.Helper()
	found, _ := look(t, namespace)
	return found
}

// atRest waits until the operator has written nothing for a while.
func atRest(t *testing.T, gate *wire.Gate) {
	t.Helper()
	last := time.Now()
	fixture.Eventually(t, limit, "the operator at rest", func() error {
		if all := gate.Since(last); len(all) > 0 {
			last = all[len(all)-1].At
		}
		if since := time.Since(last); since < quiet {
			return fmt.Errorf("its last write is %s old", since)
		}
		return nil
	})
}

func differences(t *testing.T, before, after map[string]object) (restarts, revisions, drains int) {
	t.Helper()
	for name, was := range before {
		now, ok := after[name]
		if ok && now == was {
			continue
		}
		t.Errorf("%s was %+v, is %+v", name, was, now)
		switch {
		case strings.HasPrefix(name, "pod "):
			restarts++
		case now.uid != was.uid || now.revision != was.revision:
			revisions++
		default:
			drains++
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			t.Errorf("%s is new", name)
			revisions++
		}
	}
	return restarts, revisions, drains
}

// stillValid says whether what is stored is valid by the new CRDs: an update that changes nothing is accepted, and no spec was changed.
func stillValid(ctx context.Context, t *testing.T, namespace string, generations map[string]int64) {
	t.Helper()
	var list v1alpha1.WorkerPoolList
	if err := server.Client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		pool := &list.Items[i]
		if pool.Generation != generations[pool.Name] {
			t.Errorf("pool %s: generation %d became %d", pool.Name, generations[pool.Name], pool.Generation)
		}
		fixture.Change(t, client.NewDryRunClient(server.Client), limit, pool, func(p *v1alpha1.WorkerPool) { p.Labels = map[string]string{"touched": "true"} })
	}
}

// lifeGoesOn changes and deletes what the old operator made.
func lifeGoesOn(ctx context.Context, t *testing.T, namespace string) {
	t.Helper()
	pool := fixture.NewPool(namespace, "smallest", 0)
	fixture.Change(t, server.Client, limit, pool, func(p *v1alpha1.WorkerPool) { p.Spec.Workers = 3 })
	settled(t, namespace)
	if err := server.Client.DeleteAllOf(ctx, &v1alpha1.WorkerPool{}, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	fixture.Eventually(t, limit, "nothing left", func() error {
		left, err := fixture.Leftovers(ctx, server.Client, namespace)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left: %v", left)
		}
		return err
	})
}
