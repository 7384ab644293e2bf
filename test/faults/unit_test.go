package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// The judgements on what the audit saw must be able to fail.
func TestJudgements(t *testing.T) {
	pool := fixture.Life{Kind: "WorkerPool", Name: "p", UID: "pool", Born: 1, Died: 20}
	group := fixture.Life{Kind: "WorkerGroup", Name: "p-a-0", UID: "group", Owner: "pool", Born: 3, Died: 19}
	pod := func(name string, born, died uint64) fixture.Life {
		return fixture.Life{Kind: "Pod", Name: name, UID: types.UID(name), Owner: "group", Born: born, Died: died}
	}
	killed := func(l fixture.Life, at uint64) fixture.Life {
		l.Killed = at
		return l
	}
	for _, c := range []struct {
		name              string
		lives             []fixture.Life
		forced            map[types.UID]bool
		outlived, crowded int
	}{
		{"in order", []fixture.Life{pool, group, pod("p-a-0-0", 5, 18)}, nil, 0, 0},
		{"a pod after its group", []fixture.Life{pool, group, pod("p-a-0-0", 5, 20)}, nil, 1, 0},
		{"a pod made when the one before was killed", []fixture.Life{pool, group, killed(pod("p-a-0-0", 5, 8), 6), pod("p-a-0-1", 7, 18)}, nil, 0, 0},
		{"a pod that stays", []fixture.Life{pool, group, pod("p-a-0-0", 5, 0)}, nil, 1, 0},
		{"a pod made when its group was gone", []fixture.Life{pool, group, pod("p-a-0-0", 30, 31)}, nil, 1, 0},
		{"a group removed by force", []fixture.Life{pool, group, pod("p-a-0-0", 5, 0)}, map[types.UID]bool{"group": true}, 0, 0},
		{"one pod after the other", []fixture.Life{pool, group, pod("p-a-0-0", 5, 6), pod("p-a-0-1", 7, 8)}, nil, 0, 0},
		{"two pods", []fixture.Life{pool, group, pod("p-a-0-0", 5, 8), pod("p-a-0-1", 7, 9)}, nil, 0, 1},
		{"two pods that stay", []fixture.Life{group, pod("p-a-0-0", 5, 0), pod("p-a-0-1", 7, 0)}, nil, 2, 1},
		{"two pods of a group removed by force", []fixture.Life{group, pod("p-a-0-0", 5, 0), pod("p-a-0-1", 7, 0)}, map[types.UID]bool{"group": true}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := fixture.Outlived(c.lives, slices.Collect(maps.Keys(c.forced))...); len(got) != c.outlived {
				t.Errorf("outlived: %v, want %d", got, c.outlived)
			}
			if got := crowded(c.lives, c.forced); len(got) != c.crowded {
				t.Errorf("crowded: %v, want %d", got, c.crowded)
			}
		})
	}
	if got := creates([]fixture.Life{pool, group, pod("x", 1, 2)}); len(got) != 2 || got["a pod of WorkerGroup p-a-0"] != 1 {
		t.Errorf("creates: %v, want the group and the pod once", got)
	}
}

// A mark that goes is found, and what a status says without a ground.
func TestJudgementsOfHistory(t *testing.T) {
	pool := &v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "pool", Generation: 2}}
	pool.Spec.Workers = 2
	pool.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, ObservedGeneration: 2}}
	group := func(change func(g *v1alpha1.WorkerGroup)) version {
		g := &v1alpha1.WorkerGroup{ObjectMeta: metav1.ObjectMeta{Name: "p-a-0", UID: "group", Generation: 1}}
		g.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(pool, v1alpha1.GroupVersion.WithKind("WorkerPool"))}
		g.Spec.Workers, g.Spec.PodUID = 2, "pod"
		g.Status.Router = &v1alpha1.RouterStatus{PodUID: "pod", ObservedGeneration: 1, ReadyWorkers: 2}
		change(g)
		return version{revision: 5, group: g}
	}
	well := group(func(*v1alpha1.WorkerGroup) {})
	drains := group(func(g *v1alpha1.WorkerGroup) { g.Spec.DrainRequest = &v1alpha1.DrainRequest{} })
	said := []version{{revision: 6, pool: pool}}
	for name, c := range map[string]struct {
		groups              []version
		unmarked, unfounded int
	}{
		"as it is said":          {[]version{well}, 0, 0},
		"no group":               {nil, 0, 1},
		"a group that drains":    {[]version{drains}, 0, 1},
		"the mark stays":         {[]version{well, drains, drains}, 0, 0},
		"the mark goes":          {[]version{drains, well}, 1, 0},
		"one that came later":    {[]version{{revision: 7, group: well.group}}, 0, 1},
		"too few workers":        {[]version{group(func(g *v1alpha1.WorkerGroup) { g.Status.Router.ReadyWorkers = 1 })}, 0, 1},
		"another image":          {[]version{group(func(g *v1alpha1.WorkerGroup) { g.Spec.Image = "other" })}, 0, 1},
		"an old router's word":   {[]version{group(func(g *v1alpha1.WorkerGroup) { g.Spec.PodUID = "next" })}, 0, 1},
		"a router that lags":     {[]version{group(func(g *v1alpha1.WorkerGroup) { g.Generation = 2 })}, 0, 1},
		"a group of another one": {[]version{group(func(g *v1alpha1.WorkerGroup) { g.OwnerReferences[0].UID = "other" })}, 0, 1},
	} {
		if got := unmarked(c.groups); len(got) != c.unmarked {
			t.Errorf("%s: unmarked: %v, want %d", name, got, c.unmarked)
		}
		if got := groundless(said, c.groups); len(got) != c.unfounded {
			t.Errorf("%s: groundless: %v, want %d", name, got, c.unfounded)
		}
	}
}

// A lagging body gives all that it was given, in order, and none of it early; closing it ends a read that waits.
func TestLaggingBody(t *testing.T) {
	delays := []time.Duration{0, 30 * time.Millisecond, 0}
	from, to := io.Pipe()
	began := time.Now()
	body := newLagging(from, func() time.Duration {
		d := delays[0]
		delays = delays[1:]
		return d
	})
	go func() {
		_, _ = io.WriteString(to, "one ")
		_, _ = io.WriteString(to, "two")
		_ = to.Close()
	}()
	text, err := io.ReadAll(body)
	if took := time.Since(began); err != nil || string(text) != "one two" || took < 30*time.Millisecond {
		t.Errorf("%q after %s (%v)", text, took, err)
	}
	stuck, _ := io.Pipe()
	waits := newLagging(stuck, func() time.Duration { return 0 })
	if err := waits.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := waits.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a closed body reads: %v", err)
	}
}

// A status that lags behind its object's generation must differ from one that does not; the numbers themselves are incidental.
func TestStripKeepsWhetherAGenerationIsObserved(t *testing.T) {
	object := func(generation, observed int64) map[string]string {
		text, err := json.MarshalIndent(strip(map[string]any{
			"metadata": map[string]any{"generation": generation, "resourceVersion": "7"},
			"status":   map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "True", "observedGeneration": observed}}},
		}, generation), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		return map[string]string{"WorkerGroup g": string(text)}
	}
	if lines := difference(object(2, 2), object(5, 5)); len(lines) > 0 {
		t.Errorf("two that observed their own generation differ: %v", lines)
	}
	if lines := difference(object(2, 2), object(2, 1)); len(lines) != 1 || !strings.Contains(lines[0], "present: false") {
		t.Errorf("one that lags: %v, want one difference", lines)
	}
}

// deaf is a test that fails without consequences.
type deaf struct {
	testing.TB
	said []string
}

func (d *deaf) Helper()                   {}
func (d *deaf) Error(args ...any)         { d.said = append(d.said, fmt.Sprint(args...)) }
func (d *deaf) Errorf(f string, a ...any) { d.said = append(d.said, fmt.Sprintf(f, a...)) }
func (d *deaf) Fatal(args ...any)         { d.Error(args...) }
func (d *deaf) Fatalf(f string, a ...any) { d.Errorf(f, a...) }

// The summary of a failed point is its first error on one line, and the test itself still hears all of them.
func TestWitnessKeepsTheFirstError(t *testing.T) {
	for _, c := range []struct {
		name string
		fail func(w *witness)
		why  string
		said []string
	}{
		{"nothing", func(*witness) {}, "", nil},
		{"errors", func(w *witness) { w.Error("two", "words"); w.Errorf("%d", 2) }, "two words", []string{"twowords", "2"}},
		{"formatted", func(w *witness) { w.Errorf("line %d\n\tof it", 1); w.Error("x") }, "line 1 of it", []string{"line 1\n\tof it", "x"}},
		{"fatal", func(w *witness) { w.Fatal("end") }, "end", []string{"end"}},
		{"fatal, formatted", func(w *witness) { w.Fatalf("end %s", "of it") }, "end of it", []string{"end of it"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			heard := &deaf{}
			w := &witness{TB: heard}
			c.fail(w)
			if w.why() != c.why || !slices.Equal(heard.said, c.said) {
				t.Errorf("why %q, heard %q; want %q and %q", w.why(), heard.said, c.why, c.said)
			}
		})
	}
	w := &witness{TB: &deaf{}}
	w.Error(strings.Repeat("é", longestLine+1))
	if got := []rune(w.why()); len(got) != longestLine+1 || got[longestLine] != '…' {
		t.Errorf("a long message has %d characters, want it cut to %d", len(got), longestLine)
	}
}
