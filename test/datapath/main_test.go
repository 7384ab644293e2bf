package datapath

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// routerBug is a bug for the router that the suite must catch: one of router/seeded.
var routerBug = os.Getenv("ROUTER_SEEDED_BUG")

// workerBug is a bug for the workers that the suite must catch: one of worker-image/tests/seeded.
var workerBug = os.Getenv("WORKER_SEEDED_BUG")

// seed of every random choice; DATAPATH_SEED replays a run.
var seed = func() uint64 {
	n, err := strconv.ParseUint(os.Getenv("DATAPATH_SEED"), 10, 64)
	if err != nil || n == 0 {
		return 1
	}
	return n
}()

// long says that tests take as long as the catalogue of faults has it, and not only as long as a sample.
var long = os.Getenv("FAULTS") == "all"

// either is the sample's value, or the whole test's.
func either[T any](sample, whole T) T {
	if long {
		return whole
	}
	return sample
}

var binaries string

func TestMain(m *testing.M) {
	if _, err := os.Stat(python()); err != nil {
		fmt.Println("left out: faults on the data path need the Python environment; to run them: make venv datapath-faults")
		os.Exit(0)
	}
	dir, err := os.MkdirTemp("", "spk")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = dir
	before := goleak.IgnoreCurrent()
	code := m.Run()
	_ = os.RemoveAll(dir)
	if err := goleak.Find(before); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "goroutines are left:", err)
		code = 1
	}
	os.Exit(code)
}

func python() string { return filepath.Join(fixture.Root(), ".venv/bin/python") }

// routerBinary is built once for all tests.
var routerBinary = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(binaries, "router")
	build := exec.Command("go", "build", "-o", binary, "./router")
	if routerBug != "" {
		build = exec.Command("go", "build", "-tags=seeded", "-ldflags=-X=github.com/snakepit-k8s/snakepit/router/seeded.bug="+routerBug, "-o", binary, "./router")
	}
	build.Dir = fixture.Root()
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the router: %w\n%s", err, out)
	}
	return binary, nil
})

// report writes the figures of one test and fails it where one is beyond its bound. void says why nothing was shown, or is empty.
func report(t testing.TB, id, void string, runs int, figures ...fixture.Figure) {
	t.Helper()
	if void != "" {
		t.Errorf("%s is void: %s", id, void)
	}
	for i := range figures {
		f := &figures[i]
		f.ID, f.Runs, f.Seed, f.Command, f.Void = id, runs, seed, "make datapath-faults", void != ""
		switch {
		case f.Bound == "" || f.OK:
		case f.Clock:
			t.Logf("%s: %s is %g %s, must be %s: make figures fails", id, f.Figure, f.Value, f.Unit, f.Bound)
		default:
			t.Errorf("%s: %s is %g %s, must be %s", id, f.Figure, f.Value, f.Unit, f.Bound)
		}
		f.OK = f.OK && void == ""
		t.Logf("%s: %s = %g %s", id, f.Figure, f.Value, f.Unit)
	}
	if err := fixture.AppendFigures(figures); err != nil {
		t.Errorf("the figures were not written: %v", err)
	}
}

// atMost is a figure with an upper bound.
func atMost(name string, value, bound float64, unit string) fixture.Figure {
	return fixture.Figure{Figure: name, Value: value, Unit: unit, Bound: fmt.Sprintf("<=%g", bound), OK: value <= bound}
}

// atLeast is a figure with a lower bound.
func atLeast(name string, value, bound float64, unit string) fixture.Figure {
	return fixture.Figure{Figure: name, Value: value, Unit: unit, Bound: fmt.Sprintf(">=%g", bound), OK: value >= bound}
}

// byClock marks a figure that a busy machine can push beyond its bound.
func byClock(f fixture.Figure) fixture.Figure {
	f.Clock = true
	return f
}

// told is a figure without a bound.
func told(name string, value float64, unit string) fixture.Figure {
	return fixture.Figure{Figure: name, Value: value, Unit: unit, OK: true}
}
