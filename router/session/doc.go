// Package session knows which session belongs to which worker, and until when.
//
// It is pure: events and a time come in, decisions come out; it has no clock, lock, goroutine or log, and is not safe for concurrent use.
// It does not know queues, calls or connections: package dispatch asks it, and tells it what became of a life.
//
// A life is one (name, epoch) held by one incarnation of a worker. Epochs only grow. A name is in one of four states (absent, lost, waiting, bound)
// and every question about it is answered by the table in resolve.go. Removals name the life itself, never the name alone.
package session
