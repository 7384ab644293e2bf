// Package system starts and ends what is measured, and reads what it costs: plain grpcio servers, our router with a supervisor and its workers,
// and the floor. Everything listens on the loopback or on a unix socket in a folder of its own, and ends with the System.
package system
