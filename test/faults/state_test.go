package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// incidental fields differ between two runs that ended in the same state.
var incidental = map[string]bool{
	"resourceVersion": true, "creationTimestamp": true, "generation": true, "managedFields": true,
	"lastTransitionTime": true, "startedAt": true, "startTime": true, "clusterIP": true, "clusterIPs": true,
}

// state is all objects of a pool in a namespace, as text that is the same for the same state: kind and name → content.
func state(ctx context.Context, c client.Client, namespace string) (map[string]string, error) {
	var all []unstructured.Unstructured
	for _, kind := range fixture.Kinds {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		options := []client.ListOption{client.InNamespace(namespace)}
		if kind.Group != v1alpha1.GroupVersion.Group {
			options = append(options, client.HasLabels{v1alpha1.LabelPoolUID})
		}
		if err := c.List(ctx, list, options...); err != nil {
			return nil, err
		}
		all = append(all, list.Items...)
	}
	// UIDs and the namespace stand in many places; each becomes the name of what it means.
	names := []string{namespace, "NAMESPACE"}
	for _, o := range all {
		names = append(names, string(o.GetUID()), "UID of "+o.GetKind()+" "+nameOf(o))
	}
	for _, o := range all {
		if o.GetKind() == "Pod" {
			names = append(names, o.GetName(), nameOf(o))
		}
	}
	replacer := strings.NewReplacer(names...)
	found := map[string]string{}
	for _, o := range all {
		text, err := json.MarshalIndent(strip(o.Object, o.GetGeneration()), "", " ")
		if err != nil {
			return nil, err
		}
		found[o.GetKind()+" "+nameOf(o)] = replacer.Replace(string(text))
	}
	return found, nil
}

// nameOf is the object's name; of a pod it is without what differs from life to life.
func nameOf(o unstructured.Unstructured) string {
	if o.GetKind() == "Pod" {
		return lifeInName.ReplaceAllString(o.GetName(), "-LIFE-$1")
	}
	return o.GetName()
}

// strip leaves out what is incidental. Of an observed generation it keeps whether it is the object's present one.
func strip(value any, generation int64) any {
	switch v := value.(type) {
	case map[string]any:
		kept := map[string]any{}
		for key, child := range v {
			switch {
			case key == "observedGeneration":
				kept[key] = fmt.Sprintf("present: %t", child == any(generation))
			case !incidental[key]:
				kept[key] = strip(child, generation)
			}
		}
		return kept
	case []any:
		kept := make([]any, len(v))
		for i, child := range v {
			kept[i] = strip(child, generation)
		}
		// A list of conditions is a map by type: its order says who wrote first.
		sort.SliceStable(kept, func(i, j int) bool { return typeOf(kept[i]) < typeOf(kept[j]) })
		return kept
	default:
		return v
	}
}

// typeOf is the key of a condition; empty for what is none.
func typeOf(value any) string {
	if m, ok := value.(map[string]any); ok && m["lastTransitionTime"] == nil && m["status"] != nil {
		kind, _ := m["type"].(string)
		return kind
	}
	return ""
}

// difference names what differs from the golden state, line by line.
func difference(golden, got map[string]string) []string {
	var lines []string
	for name, want := range golden {
		have, ok := got[name]
		if !ok {
			lines = append(lines, name+" is missing")
		} else if have != want {
			lines = append(lines, name+" differs: "+firstDifference(want, have))
		}
	}
	for name := range got {
		if _, ok := golden[name]; !ok {
			lines = append(lines, name+" should not exist")
		}
	}
	sort.Strings(lines)
	return lines
}

func firstDifference(want, have string) string {
	a, b := strings.Split(want, "\n"), strings.Split(have, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d is %q, golden is %q", i+1, strings.TrimSpace(b[i]), strings.TrimSpace(a[i]))
		}
	}
	return fmt.Sprintf("%d lines, golden has %d", len(b), len(a))
}

// nothing says what is left in a namespace, as an error.
func nothing(ctx context.Context, namespace string) error {
	left, err := fixture.Leftovers(ctx, server.Client, namespace)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("left: %s", strings.Join(left, ", "))
	}
	return nil
}
