package scale

import (
	"fmt"
	"testing"
	"time"

	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// growth is how much more a pool may cost at the largest size than at the smallest: with n² it would grow as the sizes do.
const growth = 2.0

const command = "make scale"

// report tells the costs, and fails when a pool among many costs more than a pool among few.
func report(t *testing.T, costs []cost) {
	t.Helper()
	var all []fixture.Figure
	tell := func(figure string, value float64, unit string) {
		all = append(all, fixture.Figure{ID: "R15", Figure: figure, Value: value, Unit: unit, OK: true, Runs: 1, Command: command})
	}
	for _, c := range costs {
		at := func(what string) string { return fmt.Sprintf("%s at %d pools", what, c.n) }
		tell(at("create to all Ready"), c.create.Seconds(), "s")
		tell(at("change to all Ready"), c.change.Seconds(), "s")
		tell(at("delete to all gone"), c.remove.Seconds(), "s")
		tell(at("operator CPU a pool's life"), c.cpu().Seconds()*1000, "ms")
		tell(at("API server CPU a pool's life"), c.serving().Seconds()*1000, "ms")
		tell(at("writes a pool's life"), float64(c.created.Writes+c.changed.Writes+c.removed.Writes)/float64(c.n), "requests")
		tell(at("Events a pool's life"), float64(c.created.Events+c.changed.Events+c.removed.Events)/float64(c.n), "requests")
		tell(at("reads a pool's life"), c.reads(), "requests")
		tell(at("heap for 1,000 pods"), c.perThousand/(1<<20), "MiB")
		all = append(all, bounded(at("writes at rest"), float64(c.atRest.Writes+c.atRest.Events), "writes", 0))
		all = append(all, bounded(at("writes after a restart"), float64(c.restarted.Writes+c.restarted.Events), "writes", 0))
		t.Logf("%5d pools: ready %5.1f s, changed %5.1f s, gone %5.1f s; a pool: %.1f writes, %.1f Events, %.1f reads, %.1f ms CPU, %.1f ms of the API server; heap for 1,000: %.1f MiB; refused %d",
			c.n, c.create.Seconds(), c.change.Seconds(), c.remove.Seconds(),
			float64(c.created.Writes+c.changed.Writes+c.removed.Writes)/float64(c.n), float64(c.created.Events+c.changed.Events+c.removed.Events)/float64(c.n),
			c.reads(), c.cpu().Seconds()*1000, c.serving().Seconds()*1000, c.perThousand/(1<<20), c.created.Refused+c.changed.Refused+c.removed.Refused)
	}
	if few, many := costs[0], costs[len(costs)-1]; many.n > few.n {
		for _, ratio := range []fixture.Figure{
			bounded(fmt.Sprintf("CPU a pool at %d / at %d pools", many.n, few.n), float64(many.cpu())/float64(few.cpu()), "ratio", growth),
			bounded(fmt.Sprintf("API server CPU a pool at %d / at %d pools", many.n, few.n), float64(many.serving())/float64(few.serving()), "ratio", growth),
			bounded(fmt.Sprintf("reads a pool at %d / at %d pools", many.n, few.n), many.reads()/few.reads(), "ratio", growth),
		} {
			all = append(all, ratio)
			if !ratio.OK {
				t.Errorf("%s is %.2f, at most %s: the cost of a pool grows with their number", ratio.Figure, ratio.Value, ratio.Bound)
			}
		}
	}
	if err := fixture.AppendFigures(all); err != nil {
		t.Error(err)
	}
}

// cpu is what the operator used for one pool's life.
func (c cost) cpu() time.Duration {
	return (c.created.CPU + c.changed.CPU + c.removed.CPU) / time.Duration(c.n)
}

// serving is what the API server used for one pool's life.
func (c cost) serving() time.Duration { return c.served / time.Duration(c.n) }

// reads of one pool's life, watches apart.
func (c cost) reads() float64 {
	return float64(c.created.Reads+c.changed.Reads+c.removed.Reads) / float64(c.n)
}

func bounded(figure string, value float64, unit string, most float64) fixture.Figure {
	return fixture.Figure{ID: "R15", Figure: figure, Value: value, Unit: unit, Bound: fmt.Sprintf("<=%g", most), OK: value <= most, Runs: 1, Command: command}
}
