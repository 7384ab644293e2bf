package operator

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
)

var (
	server *fixture.APIServer
	audit  *fixture.Audit
	// seed chooses what a sample runs, and is a part of every random choice.
	seed uint64
	// everything says that this is no sample.
	everything bool
)

func TestMain(m *testing.M) {
	fixture.Main("the operator under faults", "make faults", func() (int, error) { return fixture.Leakless(func() (int, error) { return run(m) }) })
}

// run has one API server, one kubelet and one audit for all tests. Nothing of it may be left running at the end.
func run(m *testing.M) (code int, err error) {
	if err := choose(); err != nil {
		return 1, err
	}
	if server, err = fixture.StartAPIServer(); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	if audit, err = fixture.StartAudit(server.Config, nil); err != nil {
		return 1, err
	}
	kubelet, err := standin.StartKubelet(server.Config, "")
	if err != nil {
		return 1, errors.Join(err, audit.Stop())
	}
	code = m.Run()
	return code, errors.Join(kubelet.Stop(), audit.Stop())
}

// choose reads FAULTS and FAULTS_SEED.
func choose() (err error) {
	switch mode := os.Getenv("FAULTS"); mode {
	case "", "all":
		everything = true
	case "sample":
	default:
		return fmt.Errorf("FAULTS=%q: set it to sample or all", mode)
	}
	text := os.Getenv("FAULTS_SEED")
	if text == "" {
		text = "1"
	}
	if seed, err = strconv.ParseUint(text, 10, 64); err != nil || seed == 0 {
		return fmt.Errorf("FAULTS_SEED=%q: give it a number above 0", text)
	}
	return nil
}

// tell writes figures of one test: what is the same for all of them is filled in.
func tell(t *testing.T, id string, runs int, figures ...fixture.Figure) {
	t.Helper()
	for i := range figures {
		f := &figures[i]
		f.ID, f.Runs, f.Seed, f.Command = id, runs, seed, "make faults"
		t.Logf("%s: %s: %g %s (%s), ok: %t", f.ID, f.Figure, f.Value, f.Unit, f.Bound, f.OK)
	}
	if err := fixture.AppendFigures(figures); err != nil {
		t.Errorf("the figures were not written: %v", err)
	}
}

// atMost is a figure with an upper bound.
func atMost(name string, value float64, unit string, bound float64) fixture.Figure {
	return fixture.Figure{Figure: name, Value: value, Unit: unit, Bound: fmt.Sprintf("<=%g", bound), OK: value <= bound}
}

// clocked is a figure that depends on how fast this machine is now.
func clocked(f fixture.Figure) fixture.Figure {
	f.Clock = true
	return f
}
