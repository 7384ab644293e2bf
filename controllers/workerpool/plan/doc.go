// Package plan decides what happens next to the groups of one pool and to the objects around them.
//
// It is pure: no client, no context, no clock. It sees a pool as values and the time, and returns actions as values, each with its reason.
package plan
