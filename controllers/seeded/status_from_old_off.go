//go:build !seeded_status_from_old

package seeded

// StatusFromOld believes a status that said Ready, and does not look any more.
const StatusFromOld = false
