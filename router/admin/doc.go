// Package admin is the router's HTTP server for probes, Prometheus and the kubelet's preStop hook.
//
// It is read-only but for /prestop, knows nothing of calls or workers (what it says comes from the functions it is given),
// and is not a place for debugging pages.
package admin
