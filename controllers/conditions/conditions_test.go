package conditions

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTransitionTime(t *testing.T) {
	hour := time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)
	old := []metav1.Condition{
		{Type: "Same", Status: metav1.ConditionTrue, LastTransitionTime: metav1.NewTime(hour)},
		{Type: "Turned", Status: metav1.ConditionTrue, LastTransitionTime: metav1.NewTime(hour)},
		{Type: "Schema", Status: metav1.ConditionUnknown, LastTransitionTime: metav1.NewTime(time.Unix(0, 0))},
	}
	now := hour.Add(time.Hour + 300*time.Millisecond)
	s := New(old, 7, now)
	s.Put("Same", metav1.ConditionTrue, "Other", "reason and message may change")
	s.Put("Turned", metav1.ConditionFalse, "R", "")
	s.Put("New", metav1.ConditionTrue, "R", "")
	s.Put("Schema", metav1.ConditionUnknown, "R", "the time in the schema is none")
	want := map[string]time.Time{"Same": hour, "Turned": now.Truncate(time.Second), "New": now.Truncate(time.Second), "Schema": now.Truncate(time.Second)}
	for _, c := range s.List() {
		if !c.LastTransitionTime.Time.Equal(want[c.Type]) || c.ObservedGeneration != 7 {
			t.Errorf("%s since %s of generation %d, want %s", c.Type, c.LastTransitionTime, c.ObservedGeneration, want[c.Type])
		}
	}
	if s.Old("Gone") != nil || s.Old("Same") == nil {
		t.Error("Old does not find what was")
	}
}

func TestMessageIsBounded(t *testing.T) {
	for _, text := range []string{strings.Repeat("x", 5000), strings.Repeat("ä", 2000), "a" + strings.Repeat("ä", 2000)} {
		s := New(nil, 1, time.Now())
		s.Put("C", metav1.ConditionTrue, "R", text)
		if m := s.List()[0].Message; len(m) > maxMessage || !utf8.ValidString(m) || !strings.HasSuffix(m, "…") {
			t.Errorf("%d bytes, valid %v", len(m), utf8.ValidString(m))
		}
	}
}
