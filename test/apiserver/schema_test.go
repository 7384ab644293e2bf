package apiserver

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// A variant is one value for one property of WorkerPool.spec. A property below a list, a[].b, stands for that of the list's only element.
type variant struct {
	path, what string
	value      any
	// fits: the schema and its rules allow it; refused: they do not; neither: the API server decides (an empty value may mean the default).
	fits, refused bool
}

func (v variant) String() string { return v.path + " " + v.what }

// schema is a node of the CRD's schema.
type schema map[string]any

// specSchema reads the schema of WorkerPool.spec from the CRD as it is installed.
func specSchema() (schema, error) {
	raw, err := os.ReadFile(filepath.Join(fixture.Root(), "config", "crd", "bases", "snakepit.dev_workerpools.yaml"))
	if err != nil {
		return nil, err
	}
	var crd map[string]any
	if err := yaml.Unmarshal(raw, &crd); err != nil {
		return nil, err
	}
	version := crd["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)
	return schema(version["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)).property("spec"), nil
}

func (s schema) property(name string) schema {
	properties, _ := s["properties"].(map[string]any)
	one, _ := properties[name].(map[string]any)
	return one
}

func (s schema) names() (all []string) {
	properties, _ := s["properties"].(map[string]any)
	for name := range properties {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

func (s schema) number(key string) (int64, bool) {
	n, ok := s[key].(float64)
	return int64(n), ok
}

// bounds of a property that CEL rules of its object give, as texts: duration(self.x) >= duration('1s'), quantity(…).compareTo(quantity('1Mi')) >= 0.
func (s schema) bounds(name string) (kind, low, high string) {
	rules, _ := s["x-kubernetes-validations"].([]any)
	for _, rule := range rules {
		text, _ := rule.(map[string]any)["rule"].(string)
		text = strings.Join(strings.Fields(text), " ")
		for _, found := range regexp.MustCompile(`duration\(self\.`+name+`\) (>=|<=) duration\('([^']+)'\)`).FindAllStringSubmatch(text, -1) {
			kind = "duration"
			if found[1] == ">=" {
				low = found[2]
			} else {
				high = found[2]
			}
		}
		for _, found := range regexp.MustCompile(`quantity\(string\(self\.`+name+`\)\)\.compareTo\(quantity\('([^']+)'\)\) (>=|<=)`).FindAllStringSubmatch(text, -1) {
			kind = "quantity"
			if found[2] == ">=" {
				low = found[1]
			} else {
				high = found[1]
			}
		}
	}
	return kind, low, high
}

// walk lists the variants of every property below, the pod template apart.
func (s schema) walk(prefix string) (all []variant) {
	for _, name := range s.names() {
		if prefix+name == "template" {
			continue
		}
		path, one := prefix+name, s.property(name)
		kind, low, high := s.bounds(name)
		switch kind {
		case "duration":
			all = append(all, durations(path, low, high)...)
		case "quantity":
			all = append(all, quantities(path, low, high)...)
		default:
			all = append(all, one.variants(path)...)
		}
		all = append(all, one.walk(path+".")...)
		if items, ok := one["items"].(map[string]any); ok {
			all = append(all, schema(items).variants(path+"[]")...)
			all = append(all, schema(items).walk(path+"[].")...)
		}
	}
	return all
}

func fits(path, what string, value any) variant    { return variant{path, what, value, true, false} }
func refuses(path, what string, value any) variant { return variant{path, what, value, false, true} }
func either(path, what string, value any) variant  { return variant{path, what, value, false, false} }

func (s schema) variants(path string) []variant {
	switch s["type"] {
	case "integer":
		low, _ := s.number("minimum")
		high, _ := s.number("maximum")
		return []variant{refuses(path, "min-1", low-1), fits(path, "min", low), fits(path, "max", high), refuses(path, "max+1", high+1),
			refuses(path, "huge", int64(1)<<62), refuses(path, "malformed", 1.5), refuses(path, "wrong type", "many"), either(path, "empty", nil)}
	case "boolean":
		return []variant{fits(path, "true", true), fits(path, "false", false), refuses(path, "wrong type", "yes"), either(path, "empty", nil)}
	case "array":
		high, _ := s.number("maxItems")
		items := schema(s["items"].(map[string]any))
		list := func(n int64) any {
			all := make([]any, n)
			for i := range all {
				all[i] = items.example(i)
			}
			return all
		}
		return []variant{fits(path, "one", list(1)), fits(path, "max", list(high)), refuses(path, "max+1", list(high+1)),
			refuses(path, "wrong type", map[string]any{}), either(path, "empty", []any{})}
	case "object":
		return []variant{refuses(path, "wrong type", "text"), refuses(path, "unknown field", map[string]any{"noSuchField": int64(1)}), either(path, "empty", map[string]any{})}
	}
	return s.texts(path)
}

func (s schema) texts(path string) (all []variant) {
	all = []variant{refuses(path, "wrong type", int64(7))}
	if values, ok := s["enum"].([]any); ok {
		for _, value := range values {
			all = append(all, fits(path, fmt.Sprint(value), value))
		}
		return append(all, refuses(path, "foreign", "NoSuchValue"), refuses(path, "empty", ""))
	}
	low, bounded := s.number("minLength")
	high, _ := s.number("maxLength")
	all = append(all, fits(path, "min", text(low)), fits(path, "max", text(high)), refuses(path, "max+1", text(high+1)), refuses(path, "huge", text(100000)))
	if bounded {
		return append(all, refuses(path, "min-1", text(low-1)), refuses(path, "empty", ""))
	}
	return append(all, either(path, "empty", ""))
}

// text of n characters that all our texts may be: a name and a colon.
func text(n int64) string {
	if n < 3 {
		return strings.Repeat("a", int(n))
	}
	return "a:" + strings.Repeat("b", int(n)-2)
}

// example is the i-th good value.
func (s schema) example(i int) any {
	switch s["type"] {
	case "integer":
		low, _ := s.number("minimum")
		return low
	case "object":
		out := map[string]any{}
		required, _ := s["required"].([]any)
		for _, name := range required {
			out[name.(string)] = s.property(name.(string)).example(i)
		}
		return out
	}
	return fmt.Sprintf("a:b%d", i)
}

func durations(path, low, high string) []variant {
	least, err := time.ParseDuration(low)
	most, err2 := time.ParseDuration(high)
	if err != nil || err2 != nil {
		panic(fmt.Sprintf("%s has the bounds %q and %q", path, low, high))
	}
	return []variant{refuses(path, "min-1", (least - time.Millisecond).String()), fits(path, "min", low), fits(path, "max", high),
		refuses(path, "max+1", (most + time.Millisecond).String()), refuses(path, "huge", "99999999999999h"), refuses(path, "malformed", "10 seconds"),
		refuses(path, "wrong type", int64(10)), either(path, "empty", nil)}
}

func quantities(path, low, high string) []variant {
	return []variant{refuses(path, "min-1", int64(1)<<20-1), fits(path, "min", low), fits(path, "max", high), refuses(path, "max+1", int64(1)<<44+1),
		refuses(path, "huge", "9Ei"), refuses(path, "malformed", "much"), refuses(path, "wrong type", []any{}), either(path, "empty", nil)}
}

// beside is what a good value needs beside it: rules that speak of two properties.
func beside(v variant) map[string]any {
	switch v.path {
	case "workers":
		return map[string]any{"placement.workersPerPod": int64(256)}
	case "slots":
		return map[string]any{"profile": "Thread"}
	case "profile":
		if v.value == "Thread" {
			return map[string]any{"slots": int64(2)}
		}
	case "crash.backoff":
		return map[string]any{"crash.maxBackoff": "1h"}
	case "crash.maxBackoff":
		return map[string]any{"crash.backoff": "10ms"}
	case "heartbeat.interval":
		return map[string]any{"heartbeat.timeout": "1h"}
	case "heartbeat.timeout":
		return map[string]any{"heartbeat.interval": "100ms"}
	}
	return nil
}

// apply sets the variant in a spec, with what it needs beside it.
func (v variant) apply(spec map[string]any, root schema) {
	if v.fits {
		for path, value := range beside(v) {
			set(spec, strings.Split(path, "."), value, root)
		}
	}
	set(spec, strings.Split(v.path, "."), v.value, root)
}

func set(in map[string]any, path []string, value any, s schema) {
	name, isList := strings.CutSuffix(path[0], "[]")
	one := s.property(name)
	switch {
	case isList && len(path) == 1:
		in[name] = []any{value}
	case isList:
		items := schema(one["items"].(map[string]any))
		element := items.example(0).(map[string]any)
		set(element, path[1:], value, items)
		in[name] = []any{element}
	case len(path) == 1:
		in[name] = value
	default:
		inner, ok := in[name].(map[string]any)
		if !ok {
			inner = map[string]any{}
			in[name] = inner
		}
		set(inner, path[1:], value, one)
	}
}

// get is the value at a path; nil when there is none.
func get(in any, path []string) any {
	if len(path) == 0 {
		return in
	}
	name, isList := strings.CutSuffix(path[0], "[]")
	fields, _ := in.(map[string]any)
	next := fields[name]
	if isList {
		list, _ := next.([]any)
		if len(list) == 0 {
			return nil
		}
		next = list[0]
	}
	return get(next, path[1:])
}
