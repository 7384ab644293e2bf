//go:build !seeded_repeat_accepted

package seeded

// RepeatAccepted repeats a call whose worker was lost after it had accepted it.
const RepeatAccepted = false
