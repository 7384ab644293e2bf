//go:build seeded_apply_without_uid

package seeded

// ApplyWithoutUID changes whatever has the name, and makes it anew when it is gone.
const ApplyWithoutUID = true
