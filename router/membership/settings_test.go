package membership

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// crdSpec is the schema of WorkerGroup.spec as generated.
func crdSpec(t *testing.T) map[string]any {
	t.Helper()
	document, err := os.ReadFile(filepath.Join("..", "..", "config", "crd", "bases", "snakepit.dev_workergroups.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	written, err := yaml.YAMLToJSON(document)
	if err != nil {
		t.Fatal(err)
	}
	var crd map[string]any
	if err := utiljson.Unmarshal(written, &crd); err != nil {
		t.Fatal(err)
	}
	versions := crd["spec"].(map[string]any)["versions"].([]any)
	schema := versions[0].(map[string]any)["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)
	return schema["properties"].(map[string]any)["spec"].(map[string]any)
}

// walkSchema visits every field below a schema but those of the pod template.
func walkSchema(schema map[string]any, path string, visit func(path string, field, parent map[string]any)) {
	fields, _ := schema["properties"].(map[string]any)
	for name, value := range fields {
		field := value.(map[string]any)
		at := strings.TrimPrefix(path+"."+name, ".")
		visit(at, field, schema)
		if at != "template" {
			walkSchema(field, at, visit)
		}
		if items, ok := field["items"].(map[string]any); ok {
			walkSchema(items, at, visit)
		}
	}
}

func applyDefaults(schema, value map[string]any) {
	fields, _ := schema["properties"].(map[string]any)
	for name, f := range fields {
		field := f.(map[string]any)
		if _, set := value[name]; !set && field["default"] != nil {
			value[name] = runtime.DeepCopyJSONValue(field["default"])
		}
		if inner, ok := value[name].(map[string]any); ok {
			applyDefaults(field, inner)
		}
	}
}

func TestDefaultIsWhatTheCRDStates(t *testing.T) {
	value := map[string]any{"workers": int64(2)}
	applyDefaults(crdSpec(t), value)
	want := v1alpha1.WorkerGroupSpec{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(value, &want); err != nil {
		t.Fatal(err)
	}
	if want.Sessions.Creation != "" {
		t.Fatal("the CRD has a default for sessions.creation: take it instead of the rule in Default")
	}
	want.Sessions.Creation = v1alpha1.SessionCreationExplicit
	got := v1alpha1.WorkerGroupSpec{Workers: 2}
	Default(&got)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Default gives\n%+v, the CRD\n%+v", got, want)
	}
	again := *got.DeepCopy()
	Default(&again)
	if !reflect.DeepEqual(got, again) {
		t.Error("Default changes what it has set")
	}
}

func TestCreationFollowsAffinity(t *testing.T) {
	for affinity, want := range map[v1alpha1.Affinity]v1alpha1.SessionCreation{
		"":                              v1alpha1.SessionCreationExplicit,
		v1alpha1.AffinityHint:           v1alpha1.SessionCreationImplicit,
		v1alpha1.AffinityStrictQueue:    v1alpha1.SessionCreationExplicit,
		v1alpha1.AffinityStrictFailFast: v1alpha1.SessionCreationExplicit,
	} {
		spec := v1alpha1.WorkerGroupSpec{}
		spec.Sessions.Affinity = affinity
		if Default(&spec); spec.Sessions.Creation != want {
			t.Errorf("affinity %q: creation %q, want %q", affinity, spec.Sessions.Creation, want)
		}
	}
	spec := v1alpha1.WorkerGroupSpec{}
	spec.Sessions.Creation = v1alpha1.SessionCreationImplicit
	if Default(&spec); spec.Sessions.Creation != v1alpha1.SessionCreationImplicit {
		t.Error("a creation that was set is changed")
	}
}

var durationRule = regexp.MustCompile(`has\(self\.(\w+)\).*>= duration\('(\w+)'\).*<= duration\('(\w+)'\)`)

// durationRange finds the bounds of a duration in the CEL rules of the object that holds it.
func durationRange(t *testing.T, name string, parent map[string]any) (low, high time.Duration, found bool) {
	rules, _ := parent["x-kubernetes-validations"].([]any)
	for _, r := range rules {
		match := durationRule.FindStringSubmatch(r.(map[string]any)["rule"].(string))
		if match == nil || match[1] != name {
			continue
		}
		low, err1 := time.ParseDuration(match[2])
		high, err2 := time.ParseDuration(match[3])
		if err1 != nil || err2 != nil {
			t.Fatalf("rule %q cannot be read", match[0])
		}
		return low, high, true
	}
	return 0, 0, false
}

func number(schema map[string]any, key string, otherwise int64) int64 {
	if value, ok := schema[key].(int64); ok {
		return value
	}
	return otherwise
}

// The table of limits and the CRD name the same fields with the same bounds, in both directions.
func TestLimitsAreThoseOfTheCRD(t *testing.T) {
	table := map[string]limit{}
	for _, l := range limits {
		table[l.path] = l
		for _, inner := range l.entries {
			inner.path = l.path + "." + inner.path
			table[inner.path] = inner
		}
	}
	walkSchema(crdSpec(t), "", func(path string, field, parent map[string]any) {
		if path == "template" {
			return
		}
		l, ok := table[path]
		delete(table, path)
		if !ok {
			t.Errorf("%s: the CRD has it, the table has not", path)
			return
		}
		name := path[strings.LastIndexByte(path, '.')+1:]
		switch l.kind {
		case object:
			if field["type"] != "object" {
				t.Errorf("%s is %v", path, field["type"])
			}
		case integer:
			if low, high := number(field, "minimum", math.MinInt64), number(field, "maximum", math.MaxInt64); low != l.min || high != l.max {
				t.Errorf("%s: CRD %d to %d, table %d to %d", path, low, high, l.min, l.max)
			}
		case text:
			if low, high := number(field, "minLength", 0), number(field, "maxLength", anyLength); low != l.min || high != l.max {
				t.Errorf("%s: CRD %d to %d characters, table %d to %d", path, low, high, l.min, l.max)
			}
			checkWords(t, path, field, l)
		case texts:
			items := field["items"].(map[string]any)
			if number(field, "maxItems", anyLength) != l.max || number(items, "maxLength", anyLength) != l.textMax {
				t.Errorf("%s: list limits differ", path)
			}
		case duration:
			low, high, found := durationRange(t, name, parent)
			if !found || int64(low) != l.min || int64(high) != l.max {
				t.Errorf("%s: CRD %v to %v (found %v), table %v to %v", path, low, high, found, time.Duration(l.min), time.Duration(l.max))
			}
		case list:
			if number(field, "maxItems", anyLength) != l.max {
				t.Errorf("%s: list limits differ", path)
			}
			required, _ := field["items"].(map[string]any)["required"].([]any)
			for _, inner := range l.entries {
				if slices.Contains(required, any(inner.path)) != inner.required {
					t.Errorf("%s.%s: required in one of CRD (%v) and table", path, inner.path, required)
				}
			}
		case boolean:
			if field["type"] != "boolean" {
				t.Errorf("%s is %v in the CRD", path, field["type"])
			}
		case moment:
			if field["format"] != "date-time" {
				t.Errorf("%s is no time in the CRD", path)
			}
		}
	})
	for path := range table {
		t.Errorf("%s: the table has it, the CRD has not", path)
	}
}

// checkWords compares enumerations and patterns.
func checkWords(t *testing.T, path string, field map[string]any, l limit) {
	t.Helper()
	values, _ := field["enum"].([]any)
	if len(values) != len(l.values) {
		t.Errorf("%s: CRD allows %v, table %v", path, values, l.values)
		return
	}
	for i, value := range values {
		if value != l.values[i] {
			t.Errorf("%s: CRD allows %v, table %v", path, values, l.values)
		}
	}
	rules, _ := field["x-kubernetes-validations"].([]any)
	if (l.pattern != nil) != (len(rules) > 0) {
		t.Errorf("%s: one of CRD and table has a pattern", path)
	}
	if l.pattern == nil || len(rules) == 0 {
		return
	}
	rule := rules[0].(map[string]any)
	if rule["message"] != l.advice {
		t.Errorf("%s: CRD says %q, table %q", path, rule["message"], l.advice)
	}
	// image is written as a negation in the CRD and as its opposite here; the others are the same text in both.
	if path != "image" && !strings.Contains(rule["rule"].(string), l.pattern.String()) {
		t.Errorf("%s: CRD %v, table %v", path, rule["rule"], l.pattern)
	}
}
