// Package bridge speaks the framed protocol of docs/bridge.md with the workers and the supervisor of one container.
//
// codec.go and rules.go are pure: bytes in, frames or errors out. Call keeps what is known of one call and its credit. Worker and supervisor are
// the connections; Server listens and shakes hands. One goroutine reads each connection; frames are written by whoever has something to say, so
// that a call costs no hand-over between goroutines.
//
// It does not choose workers, know sessions beyond their epochs, or repeat anything: a Handler is told what happened, and decides.
//
// One file more than the budget of ten: marks.go and heartbeat.go are each one rule of the protocol, and would hide in conn.go and server.go.
package bridge
