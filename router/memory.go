package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"

	"github.com/snakepit-k8s/snakepit/router/front"
)

// The heap of a router that passes small messages is a few MiB, and collecting it at Go's default costs a tenth of its time. It may grow by gcGrowth
// before it is collected; where large messages are in flight it may double, as by default.
const (
	gcDefault = 100
	gcMost    = 400
	gcGrowth  = 64 << 20
)

// gcPercentFor says by how many percent a heap of so many live bytes may grow.
func gcPercentFor(live uint64) int {
	percent := gcGrowth * 100 / max(live, 1)
	return int(min(max(percent, gcDefault), gcMost)) / 50 * 50
}

// tuneMemory sets what GOGC and GOMEMLIMIT do not: the collector works harder as the container's limit comes near.
func tuneMemory() {
	if limit := front.MemoryLimit(); os.Getenv("GOMEMLIMIT") == "" && limit > 0 {
		debug.SetMemoryLimit(limit / 10 * 9)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcMost)
		followHeap(gcMost)
	}
}

// followHeap adjusts the collector after each collection: that is when an object that nobody holds is found.
func followHeap(percent int) {
	sentinel := new([16]byte)
	runtime.AddCleanup(sentinel, func(percent int) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		if want := gcPercentFor(live[0].Value.Uint64()); want != percent {
			debug.SetGCPercent(want)
			percent = want
		}
		followHeap(percent)
	}, percent)
}
