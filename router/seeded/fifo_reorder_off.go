//go:build !seeded_fifo_reorder

package seeded

// FIFOReorder lets a call of a session overtake one that waits.
const FIFOReorder = false
