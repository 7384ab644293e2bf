//go:build seeded_forget_release

package seeded

// ForgetRelease keeps the slot of a call whose caller left before it was written.
const ForgetRelease = true
