// Package dispatch chooses who serves a call, or refuses it.
//
// It is pure and event driven: every method takes the time, changes the state and appends actions, which the caller takes with Actions and carries out.
// It has no clock, goroutine, connection or log, and is not safe for concurrent use: the caller holds a lock.
//
// Calls wait in one order of arrival: those of a bound session in their worker's queue, all others in the shared queue. A worker with a free slot
// pulls the earliest call it may serve. A session binds when its first call is pulled. A reservation ends with exactly one of Finished,
// NotStarted or Abandon.
package dispatch
