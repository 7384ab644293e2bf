package report

import "slices"

// Spread is a median with its range.
type Spread struct {
	Median, Low, High float64
	// N is the number of values.
	N int
}

// SpreadOf some values, in any order. All zero when there are none.
func SpreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	v := slices.Sorted(slices.Values(values))
	middle := v[len(v)/2]
	if len(v)%2 == 0 {
		middle = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return Spread{Median: middle, Low: v[0], High: v[len(v)-1], N: len(v)}
}

// Metric picks one number of a measure.
type Metric func(Measure) float64

// The metrics that are compared.
var (
	Throughput Metric = func(m Measure) float64 { return m.PerSecond }
	Median     Metric = func(m Measure) float64 { return m.P50 }
	ServerCPU  Metric = func(m Measure) float64 { return m.ServerCPU }
	ClientCPU  Metric = func(m Measure) float64 { return m.ClientCPU }
)

// Of returns a metric of a system over the repeats.
func (c *Cell) Of(system string, metric Metric) Spread { return SpreadOf(c.values(system, metric)) }

func (c *Cell) values(system string, metric Metric) []float64 {
	i := slices.Index(c.Systems, system)
	if i < 0 {
		return nil
	}
	values := make([]float64, len(c.Repeats))
	for n, repeat := range c.Repeats {
		values[n] = metric(repeat[i])
	}
	return values
}

// Ratio of two systems: within each repeat first, where both met the same state of the machine, then over the repeats.
func (c *Cell) Ratio(of, to string, metric Metric) Spread {
	above, below := c.values(of, metric), c.values(to, metric)
	var ratios []float64
	for i := range min(len(above), len(below)) {
		if below[i] > 0 {
			ratios = append(ratios, above[i]/below[i])
		}
	}
	return SpreadOf(ratios)
}

// Best of some systems by the median of a metric, of those that were measured; "" when none was. more says whether more is better.
func (c *Cell) Best(systems []string, metric Metric, more bool) string {
	best, value := "", 0.0
	for _, s := range systems {
		if !slices.Contains(c.Systems, s) {
			continue
		}
		if m := c.Of(s, metric).Median; best == "" || more == (m > value) {
			best, value = s, m
		}
	}
	return best
}
