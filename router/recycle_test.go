package main

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/upstream"
)

// grouped is a group with a request, whose status was written by the router of a pod.
func grouped(request, writer, completed string) *v1alpha1.WorkerGroup {
	g := &v1alpha1.WorkerGroup{}
	if request != "" {
		g.Spec.RecycleRequest = &v1alpha1.RecycleRequest{ID: request, Slots: []int32{3}}
	}
	if writer != "" {
		g.Status.Router = &v1alpha1.RouterStatus{PodUID: types.UID(writer), RecycleCompleted: completed}
	}
	return g
}

func progress(request string, left int) upstream.Facts {
	f := upstream.Facts{}
	f.RecycleRequest, f.RecycleLeft = request, left
	return f
}

// A request is carried out once: not again by a router that restarts, not by a pod that is younger than it.
func TestRecycleOnce(t *testing.T) {
	for name, c := range map[string]struct {
		group *v1alpha1.WorkerGroup
		stale bool
		want  string // the request that is carried out
		done  string
	}{
		"no request":                       {grouped("", "", ""), false, "", ""},
		"a new pod finds one":              {grouped("a", "", ""), false, "", "a"},
		"the successor of a pod finds one": {grouped("a", "old", ""), false, "", "a"},
		"a router restarts, it was done":   {grouped("a", "pod", "a"), false, "", "a"},
		"a router restarts, it was not":    {grouped("b", "pod", "a"), false, "b", "a"},
		"an outage: nobody knows":          {grouped("b", "", ""), true, "", ""},
	} {
		var r recycling
		got := r.adopt(c.group, "pod", c.stale)
		if (got == nil) != (c.want == "") || (got != nil && (got.ID != c.want || len(got.Slots) != 1 || got.Slots[0] != 3)) {
			t.Errorf("%s: carries out %+v, want %q", name, got, c.want)
		}
		if done := r.report(upstream.Facts{}); done != c.done {
			t.Errorf("%s: %q is complete, want %q", name, done, c.done)
		}
	}
}

func TestRecycleAgainWhenTheTextChanges(t *testing.T) {
	var r recycling
	r.adopt(grouped("", "", ""), "pod", false)
	for _, step := range []struct {
		request string
		carried bool
		facts   upstream.Facts
		done    string
	}{
		{"a", true, progress("", 0), ""}, // dispatch has not heard of it yet
		{"a", true, progress("a", 2), ""},
		{"a", true, progress("a", 0), "a"},
		{"a", false, progress("a", 0), "a"},
		{"", false, progress("a", 0), "a"},
		{"a", false, progress("a", 0), "a"}, // the annotation was away for a while
		{"b", true, progress("b", 1), "a"},
		{"b", true, progress("b", 0), "b"},
		{"a", true, progress("a", 1), "b"},
		{"a", true, progress("a", 0), "a"},
	} {
		if got := r.adopt(grouped(step.request, "pod", ""), "pod", false); (got != nil) != step.carried {
			t.Errorf("%+v: carries out %+v", step, got)
		}
		if done := r.report(step.facts); done != step.done {
			t.Errorf("%+v: %q is complete", step, done)
		}
	}
}
