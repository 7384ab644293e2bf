package load

import (
	"slices"
	"time"
)

func sorted(parts [][]time.Duration) []time.Duration {
	all := slices.Concat(parts...)
	slices.Sort(all)
	return all
}

// Percentile of ascending values: the smallest one that at least the share q (0 to 1) of all does not exceed. 0 when there are none.
func Percentile(ascending []time.Duration, q float64) time.Duration {
	if len(ascending) == 0 {
		return 0
	}
	rank := int(q*float64(len(ascending))+0.999999) - 1
	return ascending[min(max(rank, 0), len(ascending)-1)]
}
