// Package crash judges the deaths of workers: too many in a window, and requests that kill more than one.
//
// It is pure: the time is an argument; it is not safe for concurrent use.
package crash
