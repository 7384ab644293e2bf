// Package plan decides what happens next to the pods of one group.
//
// It is pure: no client, no context, no clock. It sees a group as values and the time, and returns actions as values, each with its reason.
package plan
