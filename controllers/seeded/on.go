//go:build seeded

package seeded

import (
	"fmt"
	"slices"
	"strings"
)

// The bugs, by the name that turns each on; what they are: off.go.
var (
	ApplyWithoutUID = is("apply_without_uid")
	CachedRelease   = is("cached_release")
	DeleteByName    = is("delete_by_name")
	GenerateName    = is("generate_name")
	LateFinalizer   = is("late_finalizer")
	NoFence         = is("no_fence")
	RechosenVictims = is("rechosen_victims")
	StateInMemory   = is("state_in_memory")
	StatusFromOld   = is("status_from_old")
)

// bug is the one that is on. The linker sets it: -tags=seeded -ldflags=-X=github.com/snakepit-k8s/snakepit/controllers/seeded.bug=NAME
var bug string

var known []string

func is(name string) bool {
	known = append(known, name)
	return bug == name
}

// A suite that passes, or fails, without the bug that it was to run with would prove nothing.
func init() {
	if !slices.Contains(known, bug) {
		panic(fmt.Sprintf("no seeded bug of the operator has the name %q; there are: %s", bug, strings.Join(known, ", ")))
	}
}
