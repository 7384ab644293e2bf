package least

import (
	"testing"

	"pgregory.net/rapid"
)

func TestMinIsTheSmallestKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tree := New()
		model := map[int]uint64{}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				place := rapid.IntRange(0, Size-1).Draw(t, "place")
				model[place] = rapid.Uint64Range(0, 9).Draw(t, "key")
				tree.Set(place, model[place])
			},
			"clear": func(t *rapid.T) {
				place := rapid.IntRange(0, Size-1).Draw(t, "place")
				delete(model, place)
				tree.Set(place, Absent)
			},
			"": func(t *rapid.T) {
				want := Absent
				for _, key := range model {
					want = min(want, key)
				}
				if got := tree.Min(); got != want {
					t.Fatalf("%d, want %d", got, want)
				}
			},
		})
	})
}
