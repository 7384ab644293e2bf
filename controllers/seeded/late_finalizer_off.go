//go:build !seeded_late_finalizer

package seeded

// LateFinalizer makes a pool's children before its finalizer.
const LateFinalizer = false
