// Package dispatch chooses who serves a call, or refuses it.
//
// It is pure and event driven: every method takes the time, changes the state and appends actions, which the caller takes with Actions and carries out.
// It has no clock, goroutine, connection or log, and is not safe for concurrent use: the caller holds a lock. Nothing on the way of a call looks at
// every worker, and nothing allocates once as many calls were there as are there now.
//
// A worker with a free slot pulls the call that is due first: tenants are served by their shares (package fair), and calls of one tenant in order of
// arrival, those of sessions that the worker holds before new sessions. A session binds when its first call is pulled. Its calls run one at a time and
// in order; the first that waits stands where workers look, the others behind it, so that no session holds up another.
//
// A worker of one slot may be sent a few more calls while it runs a short one (prefetch.go). Such a call gets the slot by itself in its turn, or is
// recalled when another worker is free. A reservation ends with exactly one of Finished, NotStarted, NotHeld, Recalled, Retry (when true) or Abandon.
//
// Slots of the container that shall hold a worker are chosen here too: victims of scaling down once and for good (scale.go), fresh processes for old ones
// one at a time (recycle.go).
package dispatch
