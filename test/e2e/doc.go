// Package e2e holds the stories that run on a real node: a real API server, a real kubelet, real Python workers.
//
// A story applies a pool, speaks to it through the real Python client (driver/, in a pod of its own), disturbs it, and ends with the audit:
// no object, process or mount of it is left. Stories run with SNAKEPIT_E2E=1 (make test-e2e).
package e2e
