package catchup

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// stale is a cache that holds what the test puts there.
type stale struct {
	client.Reader
	pod *corev1.Pod
}

func (s *stale) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	if s.pod == nil || s.pod.Name != key.Name {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, key.Name)
	}
	s.pod.DeepCopyInto(into.(*corev1.Pod))
	return nil
}

func pod(uid types.UID, version string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: uid, ResourceVersion: version}}
}

func TestBehind(t *testing.T) {
	deleting := pod("a", "12")
	deleting.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	wrote := func(l *Ledger) { l.Wrote("owner", pod("a", ""), "10") }
	removed := func(l *Ledger) { l.Deleted("owner", pod("a", "")) }
	for _, c := range []struct {
		name   string
		note   func(*Ledger)
		cached *corev1.Pod
		behind bool
	}{
		{"nothing written", func(*Ledger) {}, nil, false},
		{"made, not seen", wrote, nil, true},
		{"changed, older seen", wrote, pod("a", "9"), true},
		{"numbers, not text", wrote, pod("a", "100"), false},
		{"the very version", wrote, pod("a", "10"), false},
		{"a newer version", wrote, pod("a", "11"), false},
		{"deleted, still seen", removed, pod("a", "9"), true},
		{"deleted, seen as ending", removed, deleting, false},
		{"deleted, gone", removed, nil, false},
		{"deleted, a successor is seen", removed, pod("b", "20"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := clocktesting.NewFakePassiveClock(time.Unix(0, 0))
			l := NewLedger(clock)
			c.note(l)
			behind, err := l.Behind(t.Context(), "owner", &stale{pod: c.cached})
			if err != nil || behind != c.behind {
				t.Errorf("behind %v (%v), want %v", behind, err, c.behind)
			}
			if other, _ := l.Behind(t.Context(), "another", &stale{}); other {
				t.Error("another owner waits too")
			}
			clock.SetTime(time.Unix(0, 0).Add(patience))
			if behind, _ := l.Behind(t.Context(), "owner", &stale{pod: c.cached}); behind {
				t.Error("waits for ever for what may never be seen")
			}
		})
	}
}

// What was seen once is forgotten: a cache that went back in time later does not block.
func TestSeenIsForgotten(t *testing.T) {
	l := NewLedger(clocktesting.NewFakePassiveClock(time.Unix(0, 0)))
	l.Wrote("owner", pod("a", ""), "10")
	for _, cached := range []*corev1.Pod{pod("a", "10"), nil} {
		if behind, err := l.Behind(t.Context(), "owner", &stale{pod: cached}); behind || err != nil {
			t.Errorf("behind %v (%v)", behind, err)
		}
	}
}
