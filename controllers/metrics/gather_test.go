package metrics

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// gathered is what a scrape tells of one metric: the values of the labels, then the value; n= is a histogram's count.
func gathered(t *testing.T, from prometheus.Gatherer, name string) []string {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			var words []string
			for _, label := range metric.GetLabel() {
				words = append(words, label.GetValue())
			}
			switch {
			case metric.GetHistogram() != nil:
				words = append(words, fmt.Sprintf("n=%d", metric.GetHistogram().GetSampleCount()))
			case metric.GetCounter() != nil:
				words = append(words, fmt.Sprint(metric.GetCounter().GetValue()))
			default:
				words = append(words, fmt.Sprint(metric.GetGauge().GetValue()))
			}
			lines = append(lines, strings.Join(words, " "))
		}
	}
	return lines
}
