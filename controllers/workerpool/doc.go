// Package workerpool turns a WorkerPool into groups, a Service and the rights of its routers, and says in the pool's status what became of them.
//
// It makes no pod: that is the part of the group's controller. It is written for a list of groups, of which a pool has one today.
package workerpool
