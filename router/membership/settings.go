package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// Default fills every unset field of spec with the default that the CRD states, and sessions.creation with the one that
// follows from sessions.affinity. It changes no field that is set. A test compares it with the generated CRD.
func Default(spec *v1alpha1.WorkerGroupSpec) {
	fill(&spec.Protocol, v1alpha1.ProtocolSnakepit)
	fill(&spec.Profile, v1alpha1.ProfileProcess)
	fillDuration(&spec.Drain.Timeout, 30*time.Second)
	fill(&spec.Sessions.Affinity, v1alpha1.AffinityStrictQueue)
	if spec.Sessions.Affinity == v1alpha1.AffinityHint {
		fill(&spec.Sessions.Creation, v1alpha1.SessionCreationImplicit)
	} else {
		fill(&spec.Sessions.Creation, v1alpha1.SessionCreationExplicit)
	}
	fill(&spec.Sessions.MaxPerWorker, 16)
	fillDuration(&spec.Sessions.IdleTimeout, time.Hour)
	fill(&spec.Queue.MaxLength, 1000)
	fill(&spec.Queue.PerSession, 16)
	fillDuration(&spec.Queue.Timeout, 10*time.Second)
	fillDuration(&spec.Calls.Timeout, 300*time.Second)
	fillDuration(&spec.Calls.KillAfter, 10*time.Second)
	fillDuration(&spec.Calls.StreamTimeout, 900*time.Second)
	fill(&spec.Calls.MaxMessageBytes, 100<<20)
	fill(&spec.Startup.Method, v1alpha1.StartMethodAuto)
	fill(&spec.Startup.BatchSize, 10)
	fillDuration(&spec.Startup.BatchInterval, 500*time.Millisecond)
	fillDuration(&spec.Startup.Timeout, 60*time.Second)
	if spec.Recycle.Jitter == nil {
		spec.Recycle.Jitter = ptr.To[int32](10)
	}
	fillDuration(&spec.Recycle.Deadline, 10*time.Minute)
	fillDuration(&spec.Heartbeat.Interval, 2*time.Second)
	fillDuration(&spec.Heartbeat.Timeout, 10*time.Second)
	fill(&spec.Heartbeat.Missed, 3)
	fill(&spec.Crash.MaxRestarts, 10)
	fillDuration(&spec.Crash.Window, time.Minute)
	fillDuration(&spec.Crash.Backoff, time.Second)
	fillDuration(&spec.Crash.MaxBackoff, 30*time.Second)
	fillDuration(&spec.Crash.Quarantine, 10*time.Minute)
	fillDuration(&spec.Cleanup.Timeout, 5*time.Minute)
}

func fill[T comparable](target *T, value T) {
	var unset T
	if *target == unset {
		*target = value
	}
}

func fillDuration(target **metav1.Duration, value time.Duration) {
	if *target == nil {
		*target = &metav1.Duration{Duration: value}
	}
}

// kind of a field's value, as it stands in JSON.
type kind int

const (
	object   kind = iota
	integer       // min and max are inclusive
	text          // min and max count characters
	texts         // max counts entries; textMax bounds each
	integers      // textMax counts entries; min and max bound each
	list          // of objects; max counts them, entries are the limits of their fields
	duration      // min and max are nanoseconds
	moment        // RFC 3339
	boolean
	quantity // of Kubernetes: 500Mi or a number; min and max are whole units
)

// limit is one field's rule. The CRD is the contract; a test compares every line of the table with it.
type limit struct {
	path     string
	kind     kind
	min, max int64
	textMax  int64
	values   []string
	pattern  *regexp.Regexp
	advice   string // said when pattern does not match
	required bool   // only where the parent is present
	entries  []limit
}

const anyLength = int64(1) << 31

var limits = []limit{
	{path: "poolName", kind: text, min: 1, max: 40},
	{path: "workers", kind: integer, min: 0, max: 256, required: true},
	{path: "revision", kind: text, max: 63},
	{path: "podUID", kind: text, max: anyLength},
	{path: "nextPod", kind: integer, min: 0, max: math.MaxInt64},
	{path: "image", kind: text, min: 1, max: 1024, pattern: regexp.MustCompile(`^\S*$`),
		advice: "image must not contain white space; write it as registry/name:tag"},
	{path: "adapter", kind: text, min: 3, max: 256,
		pattern: regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*$`),
		advice:  "adapter must be written as module:Class or module:object, for example my_package.my_module:MyAdapter"},
	{path: "args", kind: texts, max: 64, textMax: 4096},
	{path: "protocol", kind: text, max: anyLength, values: []string{"Snakepit"}},
	{path: "profile", kind: text, max: anyLength, values: []string{"Process", "Thread"}},
	{path: "slots", kind: integer, min: 2, max: 256},
	{path: "drain", kind: object},
	// The operator alone acts on it.
	{path: "drain.onDeadline", kind: text, max: anyLength, values: []string{"Terminate", "Hold"}},
	{path: "drain.timeout", kind: duration, min: int64(time.Second), max: int64(24 * time.Hour)},
	{path: "drainRequest", kind: object},
	{path: "drainRequest.startedAt", kind: moment, required: true},
	{path: "drainRequest.deadline", kind: moment, required: true},
	{path: "drainRequest.cause", kind: text, max: 63, required: true},
	{path: "recycleRequest", kind: object},
	{path: "recycleRequest.id", kind: text, min: 1, max: 128, required: true},
	{path: "recycleRequest.slots", kind: integers, min: 0, max: 255, textMax: 256},
	{path: "sessions", kind: object},
	{path: "sessions.affinity", kind: text, max: anyLength, values: []string{"Hint", "StrictQueue", "StrictFailFast"}},
	{path: "sessions.creation", kind: text, max: anyLength, values: []string{"Explicit", "Implicit"}},
	{path: "sessions.maxPerWorker", kind: integer, min: 1, max: 10000},
	{path: "sessions.idleTimeout", kind: duration, min: int64(time.Second), max: int64(168 * time.Hour)},
	{path: "queue", kind: object},
	{path: "queue.maxLength", kind: integer, min: 1, max: 100000},
	{path: "queue.perSession", kind: integer, min: 1, max: 10000},
	{path: "queue.timeout", kind: duration, min: int64(10 * time.Millisecond), max: int64(time.Hour)},
	{path: "queue.shares", kind: list, max: 128, entries: []limit{
		{path: "tenant", kind: text, min: 1, max: 64, required: true, pattern: regexp.MustCompile(`^[A-Za-z0-9._:@/-]+$`),
			advice: "a tenant has only A-Z, a-z, 0-9 and the characters . _ : @ / -"},
		{path: "weight", kind: integer, min: 1, max: 1000, required: true},
	}},
	{path: "calls", kind: object},
	{path: "calls.timeout", kind: duration, min: int64(100 * time.Millisecond), max: int64(24 * time.Hour)},
	{path: "calls.killAfter", kind: duration, min: int64(100 * time.Millisecond), max: int64(time.Hour)},
	{path: "calls.streamTimeout", kind: duration, min: int64(100 * time.Millisecond), max: int64(168 * time.Hour)},
	{path: "calls.streamIdleTimeout", kind: duration, min: int64(100 * time.Millisecond), max: int64(168 * time.Hour)},
	{path: "calls.maxMessageBytes", kind: integer, min: 1024, max: 1 << 30},
	{path: "startup", kind: object},
	{path: "startup.method", kind: text, max: anyLength, values: []string{"Auto", "Fork", "Spawn"}},
	{path: "startup.batchSize", kind: integer, min: 1, max: 256},
	{path: "startup.batchInterval", kind: duration, min: 0, max: int64(time.Minute)},
	{path: "startup.timeout", kind: duration, min: int64(time.Second), max: int64(time.Hour)},
	{path: "recycle", kind: object},
	{path: "recycle.maxAge", kind: duration, min: int64(time.Second), max: int64(8760 * time.Hour)},
	{path: "recycle.maxRequests", kind: integer, min: 1, max: 1e12},
	{path: "recycle.maxMemory", kind: quantity, min: 1 << 20, max: 16 << 40},
	{path: "recycle.jitter", kind: integer, min: 0, max: 50},
	{path: "recycle.deadline", kind: duration, min: int64(time.Second), max: int64(24 * time.Hour)},
	{path: "heartbeat", kind: object},
	{path: "heartbeat.interval", kind: duration, min: int64(100 * time.Millisecond), max: int64(time.Minute)},
	{path: "heartbeat.timeout", kind: duration, min: int64(500 * time.Millisecond), max: int64(time.Hour)},
	{path: "heartbeat.missed", kind: integer, min: 1, max: 100},
	{path: "crash", kind: object},
	{path: "crash.maxRestarts", kind: integer, min: 1, max: 1000},
	{path: "crash.window", kind: duration, min: int64(time.Second), max: int64(24 * time.Hour)},
	{path: "crash.backoff", kind: duration, min: int64(10 * time.Millisecond), max: int64(time.Hour)},
	{path: "crash.maxBackoff", kind: duration, min: int64(10 * time.Millisecond), max: int64(time.Hour)},
	{path: "crash.quarantine", kind: duration, min: 0, max: int64(168 * time.Hour)},
	{path: "crash.exposeMessages", kind: boolean},
	{path: "cleanup", kind: object},
	{path: "cleanup.timeout", kind: duration, min: int64(10 * time.Second), max: int64(24 * time.Hour)},
}

// checkLimits returns every field of a decoded spec that breaks its limit.
func checkLimits(spec map[string]any) field.ErrorList { return checkFields(limits, spec) }

func checkFields(limits []limit, spec map[string]any) field.ErrorList {
	var bad field.ErrorList
	for _, l := range limits {
		value, parent := lookUp(spec, l.path)
		if value == nil {
			if l.required && parent {
				bad = append(bad, field.Required(field.NewPath(l.path), ""))
			}
			continue
		}
		if problem := l.check(field.NewPath(l.path), value); problem != nil {
			bad = append(bad, problem)
		}
	}
	return bad
}

// lookUp returns the value at a dotted path, or nil, and whether the object that would hold it is there.
func lookUp(spec map[string]any, path string) (value any, parent bool) {
	names := strings.Split(path, ".")
	holder := spec
	for _, name := range names[:len(names)-1] {
		next, ok := holder[name].(map[string]any)
		if !ok {
			return nil, false
		}
		holder = next
	}
	return holder[names[len(names)-1]], true
}

// remove deletes the value at a dotted path.
func remove(spec map[string]any, path string) {
	holder := spec
	if dot := strings.LastIndexByte(path, '.'); dot >= 0 {
		parent, _ := lookUp(spec, path[:dot])
		inner, ok := parent.(map[string]any)
		if !ok {
			return
		}
		holder, path = inner, path[dot+1:]
	}
	delete(holder, path)
}

func (l limit) check(at *field.Path, value any) *field.Error {
	switch l.kind {
	case object:
		if _, ok := value.(map[string]any); !ok {
			return field.TypeInvalid(at, shown(value), "must be an object with named fields")
		}
	case integer:
		number, ok := value.(int64)
		if !ok {
			return field.TypeInvalid(at, shown(value), "must be a whole number")
		}
		if number < l.min || number > l.max {
			return field.Invalid(at, number, fmt.Sprintf("must be between %d and %d", l.min, l.max))
		}
	case duration:
		written, ok := value.(string)
		length, err := time.ParseDuration(written)
		if !ok || err != nil {
			return field.TypeInvalid(at, shown(value), "must be a duration such as 500ms, 10s or 1h30m")
		}
		if int64(length) < l.min || int64(length) > l.max {
			return field.Invalid(at, written, fmt.Sprintf("must be between %v and %v", time.Duration(l.min), time.Duration(l.max)))
		}
	case moment:
		written, ok := value.(string)
		if _, err := time.Parse(time.RFC3339, written); !ok || err != nil {
			return field.TypeInvalid(at, shown(value), "must be a time such as 2026-01-31T12:00:00Z")
		}
	case boolean:
		if _, ok := value.(bool); !ok {
			return field.TypeInvalid(at, shown(value), "must be true or false, without quotes")
		}
	case quantity:
		amount, err := resource.ParseQuantity(strings.Trim(shown(value), `"`))
		if err != nil {
			return field.TypeInvalid(at, shown(value), "must be an amount such as 500Mi or 2Gi")
		}
		if amount.CmpInt64(l.min) < 0 || amount.CmpInt64(l.max) > 0 {
			return field.Invalid(at, shown(value), fmt.Sprintf("must be between %v and %v", resource.NewQuantity(l.min, resource.BinarySI), resource.NewQuantity(l.max, resource.BinarySI)))
		}
	case text:
		return l.checkText(at, value)
	case texts:
		return l.checkTexts(at, value)
	case integers:
		return l.checkIntegers(at, value)
	case list:
		return l.checkList(at, value)
	}
	return nil
}

func (l limit) checkText(at *field.Path, value any) *field.Error {
	written, ok := value.(string)
	if !ok {
		return field.TypeInvalid(at, shown(value), "must be a string; put it in quotes")
	}
	length := int64(len([]rune(written)))
	switch {
	case l.values != nil:
		for _, known := range l.values {
			if written == known {
				return nil
			}
		}
		return field.NotSupported(at, written, l.values)
	case length < l.min:
		return field.Invalid(at, written, fmt.Sprintf("must have at least %d characters", l.min))
	case length > l.max:
		return field.TooLong(at, "", int(l.max))
	case l.pattern != nil && !l.pattern.MatchString(written):
		return field.Invalid(at, written, l.advice)
	}
	return nil
}

func (l limit) checkTexts(at *field.Path, value any) *field.Error {
	entries, ok := value.([]any)
	if !ok {
		return field.TypeInvalid(at, shown(value), "must be a list of strings")
	}
	if int64(len(entries)) > l.max {
		return field.TooMany(at, len(entries), int(l.max))
	}
	for i, entry := range entries {
		if problem := (limit{kind: text, max: l.textMax}).checkText(at.Index(i), entry); problem != nil {
			return problem
		}
	}
	return nil
}

func (l limit) checkIntegers(at *field.Path, value any) *field.Error {
	entries, ok := value.([]any)
	if !ok {
		return field.TypeInvalid(at, shown(value), "must be a list of whole numbers")
	}
	if int64(len(entries)) > l.textMax {
		return field.TooMany(at, len(entries), int(l.textMax))
	}
	for i, entry := range entries {
		if problem := (limit{kind: integer, min: l.min, max: l.max}).check(at.Index(i), entry); problem != nil {
			return problem
		}
	}
	return nil
}

// checkList returns the first problem of a list of objects. The first field identifies an entry: no two have the same.
func (l limit) checkList(at *field.Path, value any) *field.Error {
	entries, ok := value.([]any)
	if !ok {
		return field.TypeInvalid(at, shown(value), "must be a list")
	}
	if int64(len(entries)) > l.max {
		return field.TooMany(at, len(entries), int(l.max))
	}
	seen := map[any]bool{}
	for i, entry := range entries {
		fields, ok := entry.(map[string]any)
		if !ok {
			return field.TypeInvalid(at.Index(i), shown(entry), "must be an object with named fields")
		}
		if bad := checkFields(l.entries, fields); len(bad) > 0 {
			bad[0].Field = at.Index(i).Child(bad[0].Field).String()
			return bad[0]
		}
		key := fields[l.entries[0].path]
		if seen[key] {
			return field.Duplicate(at.Index(i).Child(l.entries[0].path), key)
		}
		seen[key] = true
	}
	return nil
}

// checkPairs refuses what only two fields together say; spec has its defaults. The words are those of the CRD.
func checkPairs(spec *v1alpha1.WorkerGroupSpec) error {
	var failures []error
	for _, pair := range []struct {
		low, high *metav1.Duration
		advice    string
	}{
		{spec.Heartbeat.Interval, spec.Heartbeat.Timeout, "heartbeat.timeout must not be shorter than heartbeat.interval: raise timeout, or lower interval"},
		{spec.Crash.Backoff, spec.Crash.MaxBackoff, "crash.backoff must not be longer than crash.maxBackoff: lower backoff, or raise maxBackoff"},
	} {
		if pair.low.Duration > pair.high.Duration {
			failures = append(failures, errors.New(pair.advice))
		}
	}
	if len(failures) == 0 {
		return nil
	}
	return listed(failures)
}

// shown keeps a wrong value short in a message.
func shown(value any) string {
	written, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprintf("%T", value)
	}
	return bounded(string(written), 64)
}
