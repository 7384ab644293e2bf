package session

import (
	"fmt"
	"runtime"
	"testing"
)

// BenchmarkSessionTable1M reports what a million bound sessions cost, names included.
func BenchmarkSessionTable1M(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		table, o := fixture()
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range n {
			begin(table, o, fmt.Sprintf("user-%08d", i))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
		runtime.KeepAlive(table)
	}
}
