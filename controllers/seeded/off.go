//go:build !seeded

package seeded

// The bugs. As constants they are no part of a program that is built without the tag.
const (
	// ApplyWithoutUID changes whatever has the name, and makes it anew when it is gone.
	ApplyWithoutUID = false
	// CachedRelease asks the cache, and not the API server, whether anything is left before a finalizer goes.
	CachedRelease = false
	// DeleteByName deletes whatever has the name, without the UID precondition.
	DeleteByName = false
	// GenerateName lets the API server choose the names of pods.
	GenerateName = false
	// LateFinalizer makes a pool's children before its finalizer.
	LateFinalizer = false
	// NoFence lets a leader write whose lease has run out.
	NoFence = false
	// RechosenVictims chooses on each look which group is to end, whatever was marked before.
	RechosenVictims = false
	// StateInMemory keeps what an operator knows of its groups in Memory alone.
	StateInMemory = false
	// StatusFromOld believes a status that said Ready, and does not look any more.
	StatusFromOld = false
)
