package apiserver

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
)

// mutators is how many pools change at the same time.
const mutators = 6

func seedSpec() map[string]any {
	return map[string]any{"workers": int64(1), "image": "registry.example/works:1", "adapter": "app:App", "drain": map[string]any{"timeout": "20s"}}
}

// templates stand for the pod template, whose schema is Kubernetes' own.
var templates = []variant{
	fits("template", "labels", map[string]any{"metadata": map[string]any{"labels": map[string]any{"team": "a"}}}),
	fits("template", "resources", map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": "worker",
		"resources": map[string]any{"limits": map[string]any{"memory": "2Gi"}}, "env": []any{map[string]any{"name": "A", "value": "b"}}}}}}),
	fits("template", "scheduling", map[string]any{"spec": map[string]any{"nodeSelector": map[string]any{"gpu": "true"},
		"tolerations": []any{map[string]any{"key": "gpu", "operator": "Exists"}}}}),
	fits("template", "sidecar and volume", map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": "log", "image": "x"}},
		"volumes": []any{map[string]any{"name": "data", "emptyDir": map[string]any{}}}}}),
	either("template", "empty", map[string]any{}),
	refuses("template", "wrong type", "text"),
	refuses("template", "unknown field", map[string]any{"spec": map[string]any{"hostNetwork": true}}),
}

func newUnstructured(namespace, name string, spec map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"spec": runtime.DeepCopyJSON(spec)}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkerPool"))
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

// R10, first half: for every property of the schema a value is accepted or refused as schema and rules say, and a refusal names the property.
// Second half: what is accepted is reached, and the way back leads to exactly the seed: same revision, same spec of the group, nothing left,
// no alarm. MUTATIONS=all takes every accepted value, and not one a property.
func TestEveryProperty(t *testing.T) {
	s := beginAlone(t)
	kubelet, err := standin.StartKubelet(server.Config, s.namespace)
	s.must(err)
	alarms := &errorSink{}
	s.operator, err = fixture.StartOperator(server.Config, fixture.OperatorOptions{Namespace: s.namespace, Log: logr.New(alarms)})
	s.must(err)
	t.Cleanup(func() {
		s.stop()
		if err := kubelet.Stop(); err != nil {
			t.Errorf("kubelet: %v", err)
		}
	})
	root, err := specSchema()
	s.must(err)
	all := append(root.walk(""), templates...)
	accepted, tried := s.tryAll(root, all)
	chosen := accepted
	if os.Getenv("MUTATIONS") != "all" {
		chosen = onePerProperty(accepted)
	}
	hurried := "no group"
	t.Run("there and back", func(t *testing.T) {
		for i := range mutators {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				m := newMutator(s, t, root, i)
				m.hurried = &hurried
				for j := i; j < len(chosen); j += mutators {
					m.thereAndBack(chosen[j])
				}
			})
		}
	})
	rung := s.noAlarms(alarms, hurried)
	command := "make test-apiserver"
	if os.Getenv("MUTATIONS") == "all" {
		command = "make mutations"
	}
	covered := map[string]bool{}
	for _, v := range append(tried, chosen...) {
		covered[v.path] = true
	}
	share := 100 * float64(len(covered)) / float64(len(paths(all)))
	t.Logf("figure: %d properties, %d values tried, %d accepted, %d taken there and back", len(covered), len(all), len(accepted), len(chosen))
	s.must(fixture.AppendFigures([]fixture.Figure{
		{ID: "R10", Figure: "properties covered", Value: share, Unit: "%", Bound: ">=100", OK: share >= 100, Runs: len(all), Command: command},
		{ID: "R10", Figure: "alarms", Value: float64(rung), Unit: "alarms", Bound: "<=0", OK: rung == 0, Runs: len(chosen), Command: command},
	}))
	if share < 100 {
		t.Errorf("%.0f %% of the properties were tried", share)
	}
}

func paths(all []variant) map[string]bool {
	found := map[string]bool{}
	for _, v := range all {
		found[v.path] = true
	}
	return found
}

// onePerProperty prefers the last that is no empty value: mostly the upper bound.
func onePerProperty(accepted []variant) (chosen []variant) {
	at := map[string]int{}
	for _, v := range accepted {
		i, known := at[v.path]
		switch {
		case !known:
			at[v.path] = len(chosen)
			chosen = append(chosen, v)
		case v.fits:
			chosen[i] = v
		}
	}
	return chosen
}

// tryAll asks the API server about every variant and returns those that it accepts, and all about which it said what it should.
func (s *scene) tryAll(root schema, all []variant) (accepted, tried []variant) {
	for _, v := range all {
		spec := seedSpec()
		v.apply(spec, root)
		err := server.Client.Create(s.ctx, newUnstructured(s.namespace, "tried", spec), client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict))
		parts := strings.Split(strings.ReplaceAll(v.path, "[]", ""), ".")
		switch {
		case err == nil && v.refused:
			s.t.Errorf("%s: accepted", v)
		case err == nil:
			accepted = append(accepted, v)
		case v.fits:
			s.t.Errorf("%s: refused: %v", v, err)
		case !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err):
			s.t.Errorf("%s: %v", v, err)
		case !strings.Contains(err.Error(), parts[len(parts)-1]):
			s.t.Errorf("%s: the refusal does not name the property: %v", v, err)
		default:
			tried = append(tried, v)
		}
	}
	return accepted, tried
}

// A mutator changes one pool and changes it back.
type mutator struct {
	*scene
	root     schema
	pool     *v1alpha1.WorkerPool
	revision string
	seed     map[string]any // of the group
	// hurried is the name of the group that has a second to drain. Only the mutator with that value sets it.
	hurried *string
}

func newMutator(s *scene, t *testing.T, root schema, i int) *mutator {
	own := *s
	own.t = t
	m := &mutator{scene: &own, root: root}
	u := newUnstructured(s.namespace, fmt.Sprintf("pool-%d", i), seedSpec())
	m.must(server.Client.Create(m.ctx, u))
	m.pool = &v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: u.GetName()}}
	m.ready(m.pool)
	m.revision, m.seed = m.pool.Status.Revision, m.groupSpec()
	return m
}

// groupSpec is the spec of the pool's only group, without what names its pod.
func (m *mutator) groupSpec() map[string]any {
	m.t.Helper()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(m.group(m.pool))
	m.must(err)
	spec := fields["spec"].(map[string]any)
	delete(spec, "podUID")
	return spec
}

func (m *mutator) replace(spec map[string]any) {
	m.t.Helper()
	fixture.Eventually(m.t, limit, "changing the pool", func() error {
		u := newUnstructured(m.namespace, m.pool.Name, nil)
		if err := m.get(u); err != nil {
			return err
		}
		u.Object["spec"] = runtime.DeepCopyJSON(spec)
		return server.Client.Update(m.ctx, u)
	})
}

func (m *mutator) thereAndBack(v variant) {
	m.t.Helper()
	spec := seedSpec()
	v.apply(spec, m.root)
	m.replace(spec)
	m.ready(m.pool)
	m.reached(v)
	if v.path == "drain.timeout" && v.what == "min" {
		*m.hurried = m.group(m.pool).Name
	}
	m.replace(seedSpec())
	m.ready(m.pool)
	if m.pool.Status.Revision != m.revision {
		m.t.Errorf("%s: back at revision %s, want %s", v, m.pool.Status.Revision, m.revision)
	}
	if back := m.groupSpec(); !reflect.DeepEqual(back, m.seed) {
		m.t.Errorf("%s: the group is back as\n%v\nwant\n%v", v, back, m.seed)
	}
	m.onlyPod(m.pool)
}

// reached compares what the pool asks for with what its group was given. Placement, failover and the end of a drain are about the pool alone.
func (m *mutator) reached(v variant) {
	m.t.Helper()
	if strings.HasPrefix(v.path, "placement") || strings.HasPrefix(v.path, "failover") || v.path == "drain.onDeadline" {
		return
	}
	u := newUnstructured(m.namespace, m.pool.Name, nil)
	m.must(m.get(u))
	path := strings.Split(v.path, ".")
	group := m.groupSpec()
	if sessions, _ := group["sessions"].(map[string]any); v.path == "sessions" {
		delete(sessions, "creation") // follows from affinity where the pool leaves it out
	}
	want, have := canonical(get(u.Object["spec"], path)), canonical(get(any(group), path))
	if !reflect.DeepEqual(want, have) {
		m.t.Errorf("%s: the pool asks for %v, its group was given %v", v, want, have)
	}
}

// canonical makes values equal that mean the same: 1h and 1h0m0s, 1Gi and 1073741824, and what is left out when it is empty.
func canonical(value any) any {
	switch v := value.(type) {
	case string:
		if d, err := time.ParseDuration(v); err == nil {
			return d
		}
		if q, err := resource.ParseQuantity(v); err == nil {
			return q.AsApproximateFloat64()
		}
		if v == "" {
			return nil
		}
	case int64:
		if v == 0 {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	case map[string]any:
		out := map[string]any{}
		for key, inner := range v {
			if c := canonical(inner); c != nil {
				out[key] = c
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		if len(v) == 0 {
			return nil
		}
		out := make([]any, len(v))
		for i := range v {
			out[i] = canonical(v[i])
		}
		return out
	}
	return value
}

// noAlarms: no error in the operator's log, no Warning, no pool that was ever Stalled, and of each pool its eight objects. It returns how many
// alarms there were. A busy machine may take longer than the second that the hurried group has to drain, and the operator rightly says so.
func (s *scene) noAlarms(alarms *errorSink, hurried string) (rung int) {
	s.t.Helper()
	alarm := func(format string, args ...any) {
		s.t.Helper()
		rung++
		s.t.Errorf(format, args...)
	}
	for _, one := range alarms.said() {
		alarm("the operator's log has an error: %s", one)
	}
	var events eventsv1.EventList
	s.must(server.Client.List(s.ctx, &events, client.InNamespace(s.namespace)))
	for _, e := range events.Items {
		late := e.Reason == v1alpha1.EventDrainTimeout && strings.Contains(e.Note, "group "+hurried+" ")
		if e.Type != "Normal" && e.ReportingController == "snakepit-operator" && !late {
			alarm("Event %s: %s", e.Reason, e.Note)
		}
	}
	for i := range mutators {
		for _, said := range s.recorder.Said(fmt.Sprintf("pool-%d", i), v1alpha1.ConditionStalled) {
			if said != "" {
				alarm("pool-%d was Stalled: %s", i, said)
			}
		}
	}
	fixture.Eventually(s.t, limit, "nothing is left of earlier groups", func() error {
		left, err := fixture.Leftovers(s.ctx, server.Client, s.namespace)
		if err == nil && len(left) != 8*mutators {
			err = fmt.Errorf("%d objects, want 8 for each of %d pools: %v", len(left), mutators, left)
		}
		return err
	})
	return rung
}

// errorSink keeps the errors of a log.
type errorSink struct {
	mu  sync.Mutex
	all []string
}

func (e *errorSink) said() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.all
}

// Init, Enabled, Info, WithValues and WithName make it a logr.LogSink.
func (e *errorSink) Init(logr.RuntimeInfo)          {}
func (e *errorSink) Enabled(int) bool               { return false }
func (e *errorSink) Info(int, string, ...any)       {}
func (e *errorSink) WithValues(...any) logr.LogSink { return e }
func (e *errorSink) WithName(string) logr.LogSink   { return e }
func (e *errorSink) Error(err error, m string, _ ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, fmt.Sprintf("%s: %v", m, err))
}
