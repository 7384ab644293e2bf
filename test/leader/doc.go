// Package leader holds R7: two operators as processes of their own, of which the one that leads is killed, stopped for longer than its lease,
// or asked to end, on a real API server. What a stopped leader had sent arrives late, when another leads, and must do no harm; awake again, it must
// send nothing more.
//
//	KUBEBUILDER_ASSETS=… FAULTS=sample go test -v ./test/leader
//
// FAULTS=all sends every kind of write late, and stops a leader with the default lease for 60 s.
package leader
