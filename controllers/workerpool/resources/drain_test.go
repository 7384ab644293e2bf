package resources

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

func TestDrainAsked(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"new racks", "new racks"},
		{"", ""},
		{" two\nlines\x00 ", "twolines"},
		{"\xff\xfe", ""},
		{strings.Repeat("ä", 200), strings.Repeat("ä", v1alpha1.MaxDrainText)},
	} {
		pool := newPool()
		pool.Annotations = map[string]string{v1alpha1.AnnotationDrain: c.text}
		if reason, asked := DrainAsked(pool); !asked || reason != c.want {
			t.Errorf("%q: %q, %v; want %q", c.text, reason, asked, c.want)
		}
	}
	if _, asked := DrainAsked(newPool()); asked {
		t.Error("asked without the annotation")
	}
}

func TestBudget(t *testing.T) {
	pool := newPool()
	want := MakePodDisruptionBudget(pool)
	have := want.DeepCopy()
	have.Labels["somebody's"] = "too"
	if !PodDisruptionBudgetMatches(want, have) {
		t.Error("a label of somebody else is not ours to compare")
	}
	have.Spec.MinAvailable = ptr.To(intstr.FromString("50%"))
	if PodDisruptionBudgetMatches(want, have) {
		t.Error("a percentage blocks every eviction for our owner kind, and matches")
	}
	pool.Spec.Workers = 0
	if MakePodDisruptionBudget(pool) != nil {
		t.Error("a pool without workers has a budget")
	}
}

// How a drain ends is the pool's word, and it may change while a group lives: the group carries none.
func TestGroupCarriesNoDrainEnd(t *testing.T) {
	pool := newPool()
	pool.Spec.Drain.OnDeadline = v1alpha1.DrainHold
	if g := MakeGroup(pool, "r", 0); g.Spec.Drain.OnDeadline != "" {
		t.Errorf("onDeadline %q", g.Spec.Drain.OnDeadline)
	}
}
