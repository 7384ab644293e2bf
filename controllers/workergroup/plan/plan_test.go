package plan

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a group and its pods as an API server and a kubelet would keep them. The planner sees a copy.
type world struct {
	t        *rapid.T
	now      time.Time
	group    Group
	released bool
	forced   bool
	pods     []Pod
	made     int
}

func (w *world) input() Input {
	in := Input{Now: w.now, Group: w.group}
	in.Pods = append(in.Pods, w.pods...)
	return in
}

// apply carries out a plan as apply.go does, and checks what must hold at each step.
func (w *world) apply(p Plan) {
	for _, action := range p.Actions {
		switch a := action.(type) {
		case AddFinalizer:
			w.group.Finalizer = true
		case CreatePod:
			w.create(a)
		case SetPodUID:
			w.group.PodUID, w.group.NextPod = a.Pod.UID, a.Pod.Ordinal+1
		case SetServing:
			w.edit(a.Pod.UID, func(p *Pod) { p.Serving = a.Serving })
		case DeletePod:
			if a.Force {
				w.remove(a.Pod.UID)
				w.forced = true
			} else {
				w.edit(a.Pod.UID, func(p *Pod) { p.Terminating, p.GraceOver = true, w.now.Add(20*time.Second) })
			}
		case Release:
			if len(w.pods) > 0 && !a.Forced {
				w.t.Fatalf("released with %d pods", len(w.pods))
			}
			w.released = true
		}
	}
}

func (w *world) create(a CreatePod) {
	if !w.group.Finalizer || w.group.Deleting || w.group.Draining {
		w.t.Fatalf("a pod was made for %+v", w.group)
	}
	for _, pod := range w.pods {
		if pod.Ordinal == a.Ordinal {
			w.t.Fatalf("pod %d exists already", a.Ordinal)
		}
		if startable(pod) {
			w.t.Fatalf("a pod was made beside %s", pod.Name)
		}
	}
	w.made++
	w.pods = append(w.pods, Pod{Name: fmt.Sprint("pod-", a.Ordinal), UID: types.UID(fmt.Sprint("uid-", w.made)), Ordinal: a.Ordinal})
}

func (w *world) edit(uid types.UID, change func(*Pod)) {
	for i := range w.pods {
		if w.pods[i].UID == uid {
			change(&w.pods[i])
		}
	}
}

func (w *world) remove(uid types.UID) {
	var rest []Pod
	for _, pod := range w.pods {
		if pod.UID != uid {
			rest = append(rest, pod)
		}
	}
	w.pods = rest
}

// happen lets one thing happen that is not the planner's doing.
func (w *world) happen() {
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 15).Draw(w.t, "seconds")) * time.Second)
	if len(w.pods) == 0 {
		return
	}
	pod := &w.pods[rapid.IntRange(0, len(w.pods)-1).Draw(w.t, "pod")]
	switch rapid.SampledFrom([]string{"ready", "unready", "ended", "deleted", "gone", "label"}).Draw(w.t, "event") {
	case "ready":
		pod.Ready = !pod.Ended
	case "unready":
		pod.Ready = false
	case "ended":
		pod.Ready, pod.Ended, pod.EndedAt, pod.Served = false, true, w.now, rapid.Bool().Draw(w.t, "served")
	case "deleted":
		if !pod.Terminating {
			pod.Terminating, pod.GraceOver = true, w.now.Add(20*time.Second)
		}
	case "gone":
		if pod.Terminating {
			w.remove(pod.UID)
		}
	case "label":
		pod.Serving = !pod.Serving
	}
}

// settle plays a well-behaved kubelet and clock until the planner has nothing to do.
func (w *world) settle() {
	for range 200 {
		p := Decide(w.input())
		w.apply(p)
		if w.released {
			return
		}
		busy := len(p.Actions) > 0
		for _, pod := range append([]Pod(nil), w.pods...) {
			if pod.Terminating {
				w.remove(pod.UID)
				busy = true
			} else if !pod.Ended && !pod.Ready {
				w.edit(pod.UID, func(p *Pod) { p.Ready = true })
				busy = true
			}
		}
		if !busy {
			if p.Again.IsZero() {
				return
			}
			if !p.Again.After(w.now) {
				w.t.Fatalf("looks again at %s, which is not after now %s, without doing anything", p.Again, w.now)
			}
			w.now = p.Again
		}
	}
	w.t.Fatalf("never at rest: %+v", w.pods)
}

// Whatever happens, a group that is kept ends with one serving pod, and one that is deleted ends with none.
func TestConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, now: begin}
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			w.apply(Decide(w.input()))
			w.happen()
			if rapid.IntRange(0, 20).Draw(t, "drain") == 0 {
				w.group.Draining = true
				w.group.Lost = rapid.Bool().Draw(t, "lost")
			}
		}
		w.group.Deleting = rapid.Bool().Draw(t, "deleting")
		if w.group.Deleting {
			w.group.ForceAt = w.now.Add(time.Hour)
		}
		w.settle()
		w.check()
	})
}

func (w *world) check() {
	if w.group.Deleting {
		if len(w.pods) > 0 || w.forced || (w.group.Finalizer && !w.released) {
			w.t.Fatalf("after deletion: pods %+v, released %v, forced %v", w.pods, w.released, w.forced)
		}
		return
	}
	if w.group.Draining {
		if len(w.pods) > 1 {
			w.t.Fatalf("a draining group has %d pods", len(w.pods))
		}
		for _, pod := range w.pods {
			if w.group.Lost && pod.Serving && !pod.Ended {
				w.t.Fatalf("a lost group serves: %+v", pod)
			}
		}
		return
	}
	if len(w.pods) != 1 || w.pods[0].UID != w.group.PodUID || !w.pods[0].Serving || !w.pods[0].Ready {
		w.t.Fatalf("at rest: pods %+v, podUID %s", w.pods, w.group.PodUID)
	}
}

// A pod that never ends is removed when the time for it is over, and the removal is called what it is.
func TestForcedEnd(t *testing.T) {
	stuck := Pod{Name: "pod-0", UID: "a", Terminating: true, GraceOver: begin, Node: "n"}
	in := Input{Now: begin, Group: Group{Finalizer: true, Deleting: true, ForceAt: begin.Add(time.Minute)}, Pods: []Pod{stuck}}
	if p := Decide(in); len(p.Actions) != 0 || !p.Again.Equal(in.Group.ForceAt) {
		t.Errorf("before its time: %+v", p)
	}
	in.Now = in.Group.ForceAt
	if p := Decide(in); fmt.Sprint(p.Actions) != fmt.Sprint([]Action{DeletePod{Pod: stuck, Force: true, Reason: "cleanup is forced"}}) {
		t.Errorf("at its time: %+v", p)
	}
	in.Pods[0].Killed = true
	if p := Decide(in); len(p.Actions) != 1 || p.Actions[0] != (Release{Forced: true, Reason: "no pod is left"}) {
		t.Errorf("a pod that even force does not remove: %+v", p)
	}
	in.Now, in.Group.Forced, in.Pods[0].Killed = begin, true, false
	if p := Decide(in); len(p.Actions) != 1 {
		t.Errorf("forced by hand: %+v", p)
	}
}

// A node that refuses pods is not flooded: a pod that ended without having served is replaced after a wait only.
func TestFailedPodWaits(t *testing.T) {
	ended := Pod{Name: "pod-0", UID: "a", Ended: true, EndedAt: begin}
	in := Input{Now: begin.Add(time.Second), Group: Group{Finalizer: true, PodUID: "a", NextPod: 1}, Pods: []Pod{ended}}
	if p := Decide(in); len(p.Actions) != 0 || !p.Again.Equal(begin.Add(FailedPodRetry)) {
		t.Errorf("too early: %+v", p)
	}
	in.Pods[0].Served = true
	if p := Decide(in); len(p.Actions) != 2 {
		t.Errorf("a pod that had served is replaced at once: %+v", p)
	}
}

// A draining pod keeps its sessions to its end: no other pod is made beside it, and the group goes on naming it.
func TestTerminatingPodServesToItsEnd(t *testing.T) {
	pod := Pod{Name: "pod-0", UID: "a", Ready: true, Serving: true, Terminating: true, GraceOver: begin.Add(time.Minute)}
	in := Input{Now: begin, Group: Group{Finalizer: true, PodUID: "a", NextPod: 1}, Pods: []Pod{pod}}
	if p := Decide(in); len(p.Actions) != 0 || !p.Again.Equal(pod.GraceOver) {
		t.Errorf("while it drains: %+v", p)
	}
	in.Pods[0].Ready = false
	if p := Decide(in); len(p.Actions) != 1 || p.Actions[0].(CreatePod).Ordinal != 1 {
		t.Errorf("when it has ended: %+v", p)
	}
}

// The Service must not send calls to a pod that the group no longer names, even while that pod is still there.
func TestServingFollowsPodUID(t *testing.T) {
	old := Pod{Name: "pod-0", UID: "a", Serving: true, Terminating: true, GraceOver: begin}
	next := Pod{Name: "pod-1", UID: "b", Ordinal: 1, Ready: true}
	p := Decide(Input{Now: begin, Group: Group{Finalizer: true, PodUID: "b", NextPod: 2}, Pods: []Pod{old, next}})
	serving := map[types.UID]bool{}
	for _, action := range p.Actions {
		a := action.(SetServing)
		serving[a.Pod.UID] = a.Serving
	}
	if len(serving) != 2 || serving["a"] || !serving["b"] {
		t.Errorf("%+v", p.Actions)
	}
}

// A group that was given up with its node leaves the Service before its pod is deleted: its successor serves.
func TestLostLeavesTheService(t *testing.T) {
	pod := Pod{Name: "pod-0", UID: "a", Serving: true, Node: "n"}
	in := Input{Now: begin, Group: Group{Finalizer: true, PodUID: "a", NextPod: 1, Draining: true, Lost: true}, Pods: []Pod{pod}}
	off := SetServing{Pod: pod, Reason: "the Service follows spec.podUID"}
	if p := Decide(in); len(p.Actions) != 1 || p.Actions[0] != off {
		t.Errorf("before it is deleted: %+v", p.Actions)
	}
	in.Group.Deleting, in.Group.ForceAt = true, begin.Add(time.Minute)
	p := Decide(in)
	if len(p.Actions) != 2 || p.Actions[0].(SetServing).Serving || p.Actions[1].(DeletePod).Force {
		t.Errorf("when it is deleted: %+v", p.Actions)
	}
	if !p.Again.Equal(in.Group.ForceAt) {
		t.Errorf("looks again at %s, want %s: the end is proven, or forced", p.Again, in.Group.ForceAt)
	}
}
