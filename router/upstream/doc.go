// Package upstream serves the calls that the front admits: it carries out what dispatch decides over the connections of bridge.
//
// It holds the only lock around dispatch, turns what happens on connections into events for it, and turns refusals and ends into failures that
// callers can act on. It decides nothing about who serves a call, and knows no gRPC beyond codes.
//
// Locks: Pool.mu is taken before any lock of bridge, and nothing is written to a connection while it is held.
package upstream
