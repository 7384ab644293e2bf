package resources

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

func asking(text string) *v1alpha1.WorkerPool {
	pool := newPool()
	pool.Annotations = map[string]string{v1alpha1.AnnotationRecycle: text}
	return pool
}

func TestRecycleRequest(t *testing.T) {
	for text, want := range map[string]*v1alpha1.RecycleRequest{
		"":                       nil,
		"  ":                     nil,
		"1":                      {ID: "1"},
		"new weights":            {ID: "new weights"},
		" 2026-11-26T10:00:00Z ": {ID: "2026-11-26T10:00:00Z"},
		"leak: 0,3":              {ID: "leak: 0,3", Slots: []int32{0, 3}},
		"leak: 3 , 0, 255,3":     {ID: "leak: 3 , 0, 255,3", Slots: []int32{0, 3, 255}},
		"at 10:30: 7":            {ID: "at 10:30: 7", Slots: []int32{7}},
		strings.Repeat("ü", 128): {ID: strings.Repeat("ü", 128)},
	} {
		got, err := RecycleRequest(asking(text))
		if err != nil || (got == nil) != (want == nil) || (got != nil && (got.ID != want.ID || !slices.Equal(got.Slots, want.Slots))) {
			t.Errorf("%q: %+v (%v), want %+v", text, got, err, want)
		}
	}
	for text, says := range map[string]string{
		"leak:":                  "no list of slots",
		"leak: ":                 "no list of slots",
		"leak: all":              "no list of slots",
		"leak: 1,":               "no list of slots",
		"leak: -1":               "no list of slots",
		"leak: 256":              "names slot 256",
		"a\x00b":                 "cannot be shown",
		"two\nlines":             "cannot be shown",
		strings.Repeat("x", 129): "has 129 characters",
	} {
		got, err := RecycleRequest(asking(text))
		if got != nil || err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "or TEXT: 0,3 for those in slots 0 and 3 (0 to 255)") {
			t.Errorf("%q: %+v, %v; want it refused, because it %s, with the format", text, got, err, says)
		}
	}
}

// Whatever is written, a request fits what the group allows.
func TestRecycleRequestIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z:]{0,5}: [0-9, ]{0,12}`)).Draw(t, "text")
		request, err := RecycleRequest(asking(text))
		if request == nil {
			return
		}
		if err != nil || request.ID == "" || len([]rune(request.ID)) > v1alpha1.MaxRecycleText || len(request.Slots) > 256 {
			t.Fatalf("%q: %+v %v", text, request, err)
		}
		for i, slot := range request.Slots {
			if slot < 0 || slot > maxSlot || i > 0 && request.Slots[i-1] >= slot {
				t.Fatalf("%q: slots %v", text, request.Slots)
			}
		}
	})
}

// The request is a part of what the group follows; one that cannot be read is no request.
func TestGroupCarriesTheRequest(t *testing.T) {
	plain, some, bad := MakeGroup(newPool(), "r1", 0), MakeGroup(asking("a: 1"), "r1", 0), MakeGroup(asking("a: x"), "r1", 0)
	if plain.Spec.RecycleRequest != nil || bad.Spec.RecycleRequest != nil || some.Spec.RecycleRequest == nil {
		t.Errorf("%+v %+v %+v", plain.Spec.RecycleRequest, some.Spec.RecycleRequest, bad.Spec.RecycleRequest)
	}
	if GroupMatches(some, plain) || GroupMatches(plain, some) || !GroupMatches(some, MakeGroup(asking("a: 1"), "r1", 0)) {
		t.Error("a changed request is not seen, or an unchanged one is")
	}
}
