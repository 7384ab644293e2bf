//go:build seeded

package seeded

import (
	"fmt"
	"slices"
	"strings"
)

// The bugs, by the name that turns each on; what they are: off.go.
var (
	DoubleBind     = is("double_bind")
	FIFOReorder    = is("fifo_reorder")
	ForgetLosses   = is("forget_losses")
	ForgetRelease  = is("forget_release")
	RepeatAccepted = is("repeat_accepted")
)

// bug is the one that is on. The linker sets it: -tags=seeded -ldflags=-X=github.com/snakepit-k8s/snakepit/router/seeded.bug=NAME
var bug string

var known []string

func is(name string) bool {
	known = append(known, name)
	return bug == name
}

// A suite that passes, or fails, without the bug that it was to run with would prove nothing.
func init() {
	if !slices.Contains(known, bug) {
		panic(fmt.Sprintf("no seeded bug of the router has the name %q; there are: %s", bug, strings.Join(known, ", ")))
	}
}
