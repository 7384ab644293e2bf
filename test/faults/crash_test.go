package faults

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

const (
	limit      = 60 * time.Second // for anything, on a busy machine
	quietFor   = time.Second      // without a write, once all is settled
	beginsWith = 2
	scalesTo   = 4
	userWants  = 5
)

var (
	server *fixture.APIServer
	ledger *audit
)

func TestMain(m *testing.M) {
	if fixture.Assets() == "" {
		fmt.Println("left out: crash at every write needs an API server; to run it: make faults")
		os.Exit(0)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if server, err = fixture.StartAPIServer(); err != nil {
		return 1, err
	}
	defer func() { _ = server.Stop() }()
	if ledger, err = startAudit(server.Config); err != nil {
		return 1, err
	}
	code = m.Run()
	return code, ledger.Stop()
}

// act is what the user does while the operator is down, or while a write is held.
type act string

const (
	restart      act = "restart" // nothing: the operator comes back at once
	userDeletes  act = "userDeletes"
	userRescales act = "userRescales"
	userReplaces act = "userReplaces" // only for held writes: an object of the user's own takes the target's name
)

// point is where and how one life is disturbed.
type point struct {
	k   int
	how moment
	act act
}

func (p point) String() string { return fmt.Sprintf("k=%d,%s,%s", p.k, p.how, p.act) }

// result is what a life left to be judged.
type result struct {
	writes  []write
	scaled  map[string]string // the state when scaled, unless the user had other wishes
	creates map[string]int
	// replaced: a deletion was held while the user put an object of his own in the place of its target.
	replaced bool
}

func TestCrashAtEveryWrite(t *testing.T) {
	golden := live(t, point{how: never, act: restart}, nil)
	t.Logf("golden: W = %d writes", len(golden.writes))
	if len(golden.writes) < 10 {
		t.Fatalf("void: a life of %d writes is too short to be disturbed", len(golden.writes))
	}
	var replaced atomic.Int32
	points := allPoints(golden.writes)
	t.Run("points", func(t *testing.T) {
		for _, p := range points {
			t.Run(p.String(), func(t *testing.T) {
				t.Parallel()
				got := live(t, p, golden)
				if got.replaced {
					replaced.Add(1)
				}
			})
		}
	})
	t.Logf("figure: R1 %d points, W %d", len(points), len(golden.writes))
	if filtered() {
		return
	}
	if replaced.Load() == 0 {
		t.Error("void: no deletion was held while the user replaced its target")
	}
}

// filtered: somebody repeats single points by name.
func filtered() bool {
	return slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.run=") && strings.Contains(a, "/") })
}

func allPoints(writes []write) []point {
	var points []point
	for k := 1; k <= len(writes); k++ {
		for _, how := range []moment{before, after} {
			points = append(points, point{k, how, restart}, point{k, how, userDeletes})
			if k%2 == 0 {
				points = append(points, point{k, how, userRescales})
			}
		}
		if writes[k-1].verb == "DELETE" {
			points = append(points, point{k, held, userReplaces})
		}
	}
	return points
}
