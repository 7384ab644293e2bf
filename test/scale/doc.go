// Package scale measures what many pools cost the operator (R15): time, requests, CPU time and memory against their number.
//
// The operator is a process of its own, so that its CPU time and memory are not mixed with those of the test, which plays user, kubelet and
// routers. All pools share one namespace, which is the worst case for caches. SCALE names the sizes; the default is a sample:
//
//	SCALE=100,200,500,1000 go test -v -timeout 60m ./test/scale
package scale
