package plan

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// A POST of a crashed operator that arrives when its successor has looked, and before that one's own: both carry the same number, whatever
// each saw of the pods before. So the second finds the name taken by the group's own pod, and there is one pod.
func TestLatePostHasTheSameName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, now: begin}
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			w.apply(Decide(w.input()))
			w.happen()
		}
		w.loseAll()
		late, crashed := created(Decide(w.input()))
		for _, pod := range append([]Pod(nil), w.pods...) {
			if pod.Terminating && rapid.Bool().Draw(t, "gone") {
				w.remove(pod.UID)
			}
		}
		own, _ := created(Decide(w.input()))
		if crashed && own != nil && own.Ordinal != late.Ordinal {
			t.Fatalf("%+v, and late %+v, for %+v", *own, *late, w.group)
		}
		if crashed && !w.seen(late.Ordinal) {
			w.create(*late)
		}
		if own != nil && !w.seen(own.Ordinal) {
			w.create(*own)
		}
		if n := w.startable(); n > 1 {
			t.Fatalf("%d pods: %+v", n, w.pods)
		}
		w.settle()
		w.check()
	})
}

// loseAll has every pod end, and the planner act on it until it would make the next.
func (w *world) loseAll() {
	for _, pod := range w.pods {
		w.edit(pod.UID, func(p *Pod) { p.Ready, p.Terminating, p.GraceOver = false, true, w.now })
	}
	for range 10 {
		p := Decide(w.input())
		if _, made := created(p); made {
			return
		}
		w.apply(p)
	}
}

func created(p Plan) (*CreatePod, bool) {
	for _, action := range p.Actions {
		if a, ok := action.(CreatePod); ok {
			return &a, true
		}
	}
	return nil, false
}

func (w *world) seen(ordinal int) bool {
	for _, pod := range w.pods {
		if pod.Ordinal == ordinal {
			return true
		}
	}
	return false
}

func (w *world) startable() (n int) {
	for _, pod := range w.pods {
		if startable(pod) {
			n++
		}
	}
	return n
}

// The number of the next pod comes from the group's spec; what it does not say yet is written first.
func TestNextPod(t *testing.T) {
	ending := func(uid, name string, ordinal int) Pod {
		return Pod{UID: types.UID(uid), Name: name, Ordinal: ordinal, Terminating: true, GraceOver: begin}
	}
	for _, c := range []struct {
		name  string
		group Group
		pods  []Pod
		want  Action
	}{
		{"the first", Group{}, nil, CreatePod{Ordinal: 0}},
		{"the lost one is seen", Group{PodUID: "a", NextPod: 1}, []Pod{ending("a", "pod-0", 0)}, CreatePod{Ordinal: 1}},
		{"it is gone", Group{PodUID: "a", NextPod: 1}, nil, CreatePod{Ordinal: 1}},
		{"a pod that was lost before it was named", Group{PodUID: "a", NextPod: 1}, []Pod{ending("b", "pod-1", 1)}, SetPodUID{Pod: ending("b", "pod-1", 1)}},
		{"a group of an earlier operator, whose pod is seen", Group{PodUID: "a"}, []Pod{ending("a", "pod-0", 0)}, SetPodUID{Pod: ending("a", "pod-0", 0)}},
		{"its pod serves", Group{PodUID: "a"}, []Pod{{UID: "a", Name: "pod-3", Ordinal: 3}}, SetPodUID{Pod: Pod{UID: "a", Name: "pod-3", Ordinal: 3}}},
		{"the number was changed", Group{PodUID: "a", NextPod: 7}, []Pod{{UID: "a", Name: "pod-0"}}, SetPodUID{Pod: Pod{UID: "a", Name: "pod-0"}}},
		{"a pod with a name of another kind", Group{PodUID: "a"}, []Pod{ending("a", "old", -1)}, CreatePod{Ordinal: 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.group.Finalizer = true
			p := Decide(Input{Now: begin, Group: c.group, Pods: c.pods})
			if len(p.Actions) != 1 || withoutReason(p.Actions[0]) != c.want {
				t.Errorf("%+v, want %+v", p.Actions, c.want)
			}
		})
	}
}

func withoutReason(a Action) Action {
	switch a := a.(type) {
	case CreatePod:
		a.Reason = ""
		return a
	case SetPodUID:
		a.Reason = ""
		return a
	}
	return a
}
