//go:build !seeded_repeat_accepted

package seeded

// RepeatAccepted repeats a call that its worker had accepted, whatever caller and adapter say.
const RepeatAccepted = false
