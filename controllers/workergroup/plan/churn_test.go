package plan

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// R11: a pod that fails each time costs at most one pod a back-off step, however long it lasts, and one that waits costs none.
func TestNoChurn(t *testing.T) {
	const failing = 5 * time.Minute
	for _, c := range []struct {
		name  string
		ended bool
		want  int
	}{{"fails at once", true, 1 + int(failing/FailedPodRetry)}, {"waits for its image", false, 1}} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			in := Input{Now: start, Group: Group{Finalizer: true}}
			made := 0
			for ; in.Now.Sub(start) < failing; in.Now = in.Now.Add(time.Second) {
				for _, action := range Decide(in).Actions {
					switch a := action.(type) {
					case CreatePod:
						made++
						in.Pods = append(in.Pods, Pod{Name: fmt.Sprint(a.Ordinal), UID: types.UID(fmt.Sprint("uid-", made)), Ordinal: a.Ordinal, Ended: c.ended, EndedAt: in.Now})
					case DeletePod:
						in.Pods = nil
					case SetPodUID:
						in.Group.PodUID, in.Group.NextPod = a.Pod.UID, a.Pod.Ordinal+1
					}
				}
			}
			if made == 0 || made > c.want {
				t.Errorf("%d pods in %s, want at most %d", made, failing, c.want)
			}
		})
	}
}
