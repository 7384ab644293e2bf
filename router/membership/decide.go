package membership

import (
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

const (
	// factsInterval is the least time between two writes.
	factsInterval = 2 * time.Second
	// loadInterval is the least time between two writes for the sake of load figures alone.
	loadInterval = time.Minute
	// maxText bounds every text that comes from a worker, in bytes.
	maxText = 256
	// maxVersion and maxIncarnation are what the CRD allows.
	maxVersion     = 64
	maxIncarnation = 32
	maxReason      = 64
	maxWorkers     = 256
)

// Facts are what the router knows about its group.
type Facts struct {
	// Router is the router's own word. BusyWorkers and Sessions are load figures, given exactly: rounding happens here.
	Router v1alpha1.RouterStatus
	// Conditions WorkersReady and AdapterLoaded; others are left out. LastTransitionTime is filled in here.
	Conditions []metav1.Condition
}

// ledger is what the decision needs to know about earlier writes.
type ledger struct {
	written     *Facts    // what the API server holds of ours; nil when that is unknown
	lastAttempt time.Time // zero before the first
	retryAt     time.Time // zero unless the last attempt failed
}

// decision says to write now, or to look again after wait. Neither: nothing is to be done until the facts change.
type decision struct {
	write bool
	wait  time.Duration
}

// decide is pure. Facts of life are written as soon as factsInterval allows, load figures as soon as loadInterval does,
// and nothing at all when nothing changed. wanted must be normalized.
func decide(l ledger, wanted *Facts, now time.Time) decision {
	var due time.Time
	switch {
	case l.written == nil || !sameFacts(l.written, wanted):
		due = l.lastAttempt.Add(factsInterval)
	case !sameLoad(l.written, wanted):
		due = l.lastAttempt.Add(loadInterval)
	default:
		return decision{}
	}
	if l.lastAttempt.IsZero() {
		due = now
	}
	if l.retryAt.After(due) {
		due = l.retryAt
	}
	if wait := due.Sub(now); wait > 0 {
		return decision{wait: wait}
	}
	return decision{write: true}
}

func sameLoad(a, b *Facts) bool {
	return a.Router.BusyWorkers == b.Router.BusyWorkers && a.Router.Sessions == b.Router.Sessions
}

func sameFacts(a, b *Facts) bool {
	return equality.Semantic.DeepEqual(factsOfLife(a), factsOfLife(b))
}

// factsOfLife leaves out load figures, and the times that follow from the rest.
func factsOfLife(facts *Facts) Facts {
	rest := Facts{Router: facts.Router, Conditions: slices.Clone(facts.Conditions)}
	rest.Router.BusyWorkers, rest.Router.Sessions = 0, 0
	for i := range rest.Conditions {
		rest.Conditions[i].LastTransitionTime = metav1.Time{}
	}
	return rest
}

// normalized returns a copy that may be compared and written: rounded, sorted, bounded, and only what the router owns.
func normalized(facts Facts) *Facts {
	out := &Facts{Router: *facts.Router.DeepCopy()}
	router := &out.Router
	router.BusyWorkers, router.Sessions = rounded(router.BusyWorkers), rounded(router.Sessions)
	router.Version = bounded(router.Version, maxVersion)
	slices.SortStableFunc(router.Workers, func(a, b v1alpha1.WorkerStatus) int { return int(a.Slot) - int(b.Slot) })
	router.Workers = slices.CompactFunc(router.Workers, func(a, b v1alpha1.WorkerStatus) bool { return a.Slot == b.Slot })
	router.Workers = router.Workers[:min(len(router.Workers), maxWorkers)]
	for i := range router.Workers {
		router.Workers[i].Incarnation = bounded(router.Workers[i].Incarnation, maxIncarnation)
		router.Workers[i].LastError = bounded(router.Workers[i].LastError, maxText)
		if exit := router.Workers[i].LastExit; exit != nil {
			exit.Reason = v1alpha1.ExitReason(bounded(string(exit.Reason), maxReason))
			exit.LastOutput = bounded(exit.LastOutput, maxText)
		}
	}
	for _, kind := range []string{v1alpha1.ConditionWorkersReady, v1alpha1.ConditionAdapterLoaded} {
		at := slices.IndexFunc(facts.Conditions, func(c metav1.Condition) bool { return c.Type == kind })
		if at < 0 {
			continue
		}
		condition := facts.Conditions[at]
		condition.Message = bounded(condition.Message, maxText)
		condition.LastTransitionTime = metav1.Time{}
		out.Conditions = append(out.Conditions, condition)
	}
	return out
}

// dated returns a copy of facts whose conditions have transition times: the time before where the status did not change.
func dated(facts *Facts, before []metav1.Condition, now time.Time) *Facts {
	out := &Facts{Router: facts.Router, Conditions: slices.Clone(facts.Conditions)}
	for i := range out.Conditions {
		condition := &out.Conditions[i]
		condition.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
		for _, old := range before {
			if old.Type == condition.Type && old.Status == condition.Status && !old.LastTransitionTime.IsZero() {
				condition.LastTransitionTime = old.LastTransitionTime
			}
		}
	}
	return out
}

// rounded is exact below 10 and has two significant digits above.
func rounded(figure int32) int32 {
	if figure < 10 {
		return max(figure, 0)
	}
	unit := int64(1)
	for int64(figure)/unit >= 100 {
		unit *= 10
	}
	return int32(min((int64(figure)+unit/2)/unit*unit, math.MaxInt32/unit*unit))
}

// bounded keeps printable characters only and at most limit bytes of them. What separates words becomes a space.
func bounded(text string, limit int) string {
	var out strings.Builder
	for _, char := range text {
		switch {
		case unicode.IsSpace(char):
			char = ' '
		case char == utf8.RuneError || !unicode.IsPrint(char):
			continue
		}
		if out.Len()+utf8.RuneLen(char) > limit {
			break
		}
		out.WriteRune(char)
	}
	return strings.TrimSpace(out.String())
}
