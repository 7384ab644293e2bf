// Package admin is the router's HTTP server for probes and Prometheus, and its socket for the kubelet's preStop hook.
//
// The HTTP server is read-only: anybody in the cluster may reach it, so nothing there changes anything. The one thing that acts, the drain, is asked
// for over a unix socket in a folder of the router container alone. It knows nothing of calls or workers (what it says comes from the functions it is
// given), and is not a place for debugging pages.
package admin
