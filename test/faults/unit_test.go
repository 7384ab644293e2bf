package faults

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// The judgements on what the audit saw must be able to fail.
func TestJudgements(t *testing.T) {
	pool := life{kind: "WorkerPool", name: "p", uid: "pool", born: 1, died: 20}
	group := life{kind: "WorkerGroup", name: "p-a-0", uid: "group", owner: "pool", born: 3, died: 19}
	pod := func(name string, born, died uint64) life {
		return life{kind: "Pod", name: name, uid: types.UID(name), owner: "group", born: born, died: died}
	}
	for _, c := range []struct {
		name              string
		lives             []life
		forced            map[types.UID]bool
		outlived, crowded int
	}{
		{"in order", []life{pool, group, pod("p-a-0-0", 5, 18)}, nil, 0, 0},
		{"a pod after its group", []life{pool, group, pod("p-a-0-0", 5, 20)}, nil, 1, 0},
		{"a pod that stays", []life{pool, group, pod("p-a-0-0", 5, 0)}, nil, 1, 0},
		{"a pod made when its group was gone", []life{pool, group, pod("p-a-0-0", 30, 31)}, nil, 1, 0},
		{"a group removed by force", []life{pool, group, pod("p-a-0-0", 5, 0)}, map[types.UID]bool{"group": true}, 0, 0},
		{"one pod after the other", []life{pool, group, pod("p-a-0-0", 5, 6), pod("p-a-0-1", 7, 8)}, nil, 0, 0},
		{"two pods", []life{pool, group, pod("p-a-0-0", 5, 8), pod("p-a-0-1", 7, 9)}, nil, 0, 1},
		{"two pods that stay", []life{group, pod("p-a-0-0", 5, 0), pod("p-a-0-1", 7, 0)}, nil, 0, 1},
		{"two pods of a group removed by force", []life{group, pod("p-a-0-0", 5, 0), pod("p-a-0-1", 7, 0)}, map[types.UID]bool{"group": true}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := outlived(c.lives, c.forced); len(got) != c.outlived {
				t.Errorf("outlived: %v, want %d", got, c.outlived)
			}
			if got := crowded(c.lives, c.forced); len(got) != c.crowded {
				t.Errorf("crowded: %v, want %d", got, c.crowded)
			}
		})
	}
	if got := creates([]life{pool, group, pod("x", 1, 2)}); len(got) != 2 || got["a pod of WorkerGroup p-a-0"] != 1 {
		t.Errorf("creates: %v, want the group and the pod once", got)
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
