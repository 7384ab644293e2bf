package upstream

import (
	"testing"
	"time"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/bridge/fakeworker"
	"github.com/snakepit-k8s/snakepit/router/front"
)

// live opens a session at the worker by a call, and returns its token.
func (s *scene) live(w *fakeworker.Worker, name string) string {
	s.t.Helper()
	got := s.call(&front.Call{Session: name, Create: true})
	w.Data.Expect(bridge.KindSessionOpen)
	serve(w, "x")
	return (<-got).answer.SessionToken
}

// kept reads what the supervisor is asked to keep.
func kept(t *testing.T, sup *fakeworker.Supervisor) []*bridgev1.LostLife {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		if lost := sup.Hear().GetLost(); lost != nil {
			return lost.GetLives()
		}
	}
	t.Fatal("nothing was given to keep")
	return nil
}

// A loss that one router told is told by the next one in the same words: to a token, to a name, and to a name that begins again.
func TestALossOutlivesItsRouter(t *testing.T) {
	before := newScene(t, testSettings(2))
	sup := fakeworker.DialSupervisor(t, before.socket, pod)
	dies, drained := before.worker(sup, 0, 1), before.worker(sup, 1, 2)
	tokens := map[string]string{"a": before.live(dies, "a")}
	tokens["b"] = before.live(drained, "b")
	tokens["c"] = before.live(dies, "c")
	sup.Exited(dies.ID, "STUCK")
	lost := kept(t, sup)
	before.Drain(time.Now())
	lost = append(lost, kept(t, sup)...)
	lost[0].AgeMs = 1000
	drainedStill := fakeworker.State(pod, 1, 2) // it lives on, and holds nothing that anyone may have
	after := newScene(t, testSettings(2))
	fakeworker.DialSupervisorSaying(t, after.socket, pod, &bridgev1.SupervisorState{Workers: []*bridgev1.WorkerState{drainedStill}, Lost: lost})
	for name, cause := range map[string]string{"a": "STUCK", "b": "DRAINED"} {
		for _, c := range []*front.Call{{Session: name}, {Session: name, Token: tokens[name]}, {Session: name, Token: tokens[name]}} {
			told := c.Token
			f := (<-after.call(c)).failure(t)
			if f.Reason != front.ReasonSessionLost || f.Info["cause"] != cause || f.Info["epoch"] == "" {
				t.Errorf("%s with token %q: %+v", name, told, f)
			}
		}
	}
	w := fakeworker.DialWorker(t, after.socket, drainedStill.GetIncarnation(), &bridgev1.Tool{Name: "echo"})
	got := after.call(&front.Call{Session: "c", Create: true})
	w.Data.Expect(bridge.KindSessionOpen)
	serve(w, "x")
	if r := <-got; r.err != nil || r.answer.SessionState != "rebound" {
		t.Errorf("c begins again: %+v", r)
	}
}

// What a supervisor kept is bounded like all that comes from outside: nonsense is left out, and a loss that is too old is not told.
func TestWhatASupervisorKeptIsChecked(t *testing.T) {
	life := func(name string, slot uint32, age uint64) *bridgev1.LostLife {
		return &bridgev1.LostLife{
			Session:     &bridgev1.Session{Name: name, Epoch: 5 + age},
			Incarnation: &bridgev1.Incarnation{Slot: slot, Nonce: 1}, Cause: "A\ncause", AgeMs: age,
		}
	}
	s := newScene(t, testSettings(1))
	fakeworker.DialSupervisorSaying(t, s.socket, pod, &bridgev1.SupervisorState{Lost: []*bridgev1.LostLife{
		life("old", 0, 1<<63), life("slot", 256, 1), life("bad\x00name", 0, 2), {}, life("good", 0, 3),
	}}).ExpectSlots(0)
	if f := (<-s.call(&front.Call{Session: "good"})).failure(t); f.Reason != front.ReasonSessionLost || f.Info["cause"] != "A cause" {
		t.Errorf("%+v", f)
	}
	for _, name := range []string{"old", "slot"} {
		if f := (<-s.call(&front.Call{Session: name})).failure(t); f.Reason != front.ReasonSessionUnknown {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// While parts of the Hello are to come, nothing is said about any session.
func TestRecoveryEndsWithTheLastPart(t *testing.T) {
	s := newScene(t, testSettings(1))
	state := fakeworker.State(pod, 3, 9)
	sup := fakeworker.DialSupervisorSaying(t, s.socket, pod, &bridgev1.SupervisorState{Workers: []*bridgev1.WorkerState{state}, Continued: true})
	w := fakeworker.DialWorker(t, s.socket, state.GetIncarnation(), &bridgev1.Tool{Name: "echo"})
	part := func(name string, epoch uint64, continued bool) {
		held := &bridgev1.WorkerState{Incarnation: state.GetIncarnation(), Sessions: []*bridgev1.Session{{Name: name, Epoch: epoch}}}
		gone := &bridgev1.WorkerState{Incarnation: &bridgev1.Incarnation{PodUid: pod, Slot: 4, Nonce: 4}, Sessions: []*bridgev1.Session{{Name: "x", Epoch: 1}}}
		sup.Tell(&bridgev1.FromSupervisor{Kind: &bridgev1.FromSupervisor_More{More: &bridgev1.SupervisorState{
			Workers: []*bridgev1.WorkerState{gone, held}, Continued: continued,
		}}})
	}
	part("a", 77, true)
	s.eventually(func() bool { return s.Facts().Sessions == 1 })
	for _, name := range []string{"a", "b", "c"} {
		if f := (<-s.call(&front.Call{Session: name})).failure(t); f.Reason != front.ReasonRecovering {
			t.Fatalf("%s: %+v", name, f)
		}
	}
	part("b", 78, false)
	sup.ExpectSlots(3)
	for name, epoch := range map[string]uint64{"a": 77, "b": 78} {
		got := s.call(&front.Call{Session: name})
		if f := serve(w, "kept"); f.Epoch != epoch {
			t.Fatalf("%s: epoch %d", name, f.Epoch)
		}
		if r := <-got; r.err != nil || r.answer.SessionState != "bound" {
			t.Fatalf("%+v", r)
		}
	}
	if f := (<-s.call(&front.Call{Session: "x"})).failure(t); f.Reason != front.ReasonSessionUnknown {
		t.Fatalf("%+v", f)
	}
}
