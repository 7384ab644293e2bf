package main

import "testing"

func TestTheHeapMayGrowByABoundedAmount(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 4 << 20: 400, 16 << 20: 400, 32 << 20: 200, 40 << 20: 150, 64 << 20: 100, 1 << 30: 100} {
		if got := gcPercentFor(live); got != want {
			t.Errorf("%d live bytes: %d %%, want %d %%", live, got, want)
		}
		if grown := live * uint64(gcPercentFor(live)) / 100; grown > max(live, gcGrowth) {
			t.Errorf("%d live bytes may grow by %d", live, grown)
		}
	}
}
