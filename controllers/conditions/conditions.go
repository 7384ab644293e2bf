// Package conditions builds the list of an object's conditions anew on each look, keeping only the time of the last transition.
//
// It knows nothing of what conditions mean.
package conditions

import (
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxMessage bounds a message in bytes: it is read in terminals.
const maxMessage = 1024

// Set is a list of conditions under construction, all about one generation.
type Set struct {
	old        []metav1.Condition
	generation int64
	now        metav1.Time
	list       []metav1.Condition
}

// New starts an empty set; old is what the status says now.
func New(old []metav1.Condition, generation int64, now time.Time) *Set {
	return &Set{old: old, generation: generation, now: metav1.NewTime(now.Truncate(time.Second))}
}

// Put adds a condition. Its transition time is the old one's when the status is the same.
func (s *Set) Put(kind string, status metav1.ConditionStatus, reason, message string) {
	next := metav1.Condition{Type: kind, Status: status, ObservedGeneration: s.generation, LastTransitionTime: s.now, Reason: reason, Message: bounded(message)}
	if was := s.Old(kind); was != nil && was.Status == status && was.LastTransitionTime.Unix() > 0 {
		next.LastTransitionTime = was.LastTransitionTime
	}
	s.list = append(s.list, next)
}

// Old is the condition as the status says it now; nil when it is absent.
func (s *Set) Old(kind string) *metav1.Condition { return meta.FindStatusCondition(s.old, kind) }

// List is what was put, in that order.
func (s *Set) List() []metav1.Condition { return s.list }

// Status turns a boolean into a condition's status.
func Status(ok bool) metav1.ConditionStatus {
	if ok {
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}

func bounded(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	cut := maxMessage - len("…")
	for cut > 0 && !utf8.RuneStart(message[cut]) {
		cut--
	}
	return message[:cut] + "…"
}
