// Package fair orders what waits by start-time fair queueing: each tenant is served in proportion to its weight, whatever the others ask for.
//
// A tenant's start tag is the virtual time at which its next item is due; serving one moves it on by 1/weight. The virtual time is the largest
// start tag that was served. A tenant that had nothing waiting gets no credit for that time, and one whose items could not be served
// gets at most that of a few. Several queues may share the tenants: what is served from one counts in all.
//
// It is pure: no clock, no goroutine, not safe for concurrent use.
package fair
