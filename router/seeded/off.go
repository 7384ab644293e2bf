//go:build !seeded

package seeded

// The bugs. As constants they are no part of a program that is built without the tag.
const (
	// DoubleBind checks that a name is absent, and binds it later without looking again.
	DoubleBind = false
	// FIFOReorder lets a call of a session overtake one that waits.
	FIFOReorder = false
	// ForgetLosses drops what an earlier router told lost.
	ForgetLosses = false
	// ForgetRelease keeps the slot of a call whose caller left before it was written.
	ForgetRelease = false
	// RepeatAccepted repeats a call that its worker had accepted, whatever caller and adapter say.
	RepeatAccepted = false
)
