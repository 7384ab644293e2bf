// The router serves callers over gRPC and hands their calls to the workers of one group.
//
// This package only wires: membership says what is wanted, upstream serves what front admits over the connections of bridge, admin answers
// probes and Prometheus. It decides nothing.
package main
