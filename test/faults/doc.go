// Package faults breaks the operator at every write it makes, on a real API server, and checks that nothing of it shows in the end.
//
// A life of a pool (create, scale, delete) is run once without a fault and then once for each point: the k-th write fails before it is sent,
// or its answer is lost, and the operator that sent it never speaks again; a new one starts, at once or after the user changed something
// meanwhile. In points called "held" nothing crashes: the write waits while the user puts an object of his own in the place of its target.
//
// It starts no pod and has no garbage collector: what is gone at the end, the operator removed. One failing point is repeated by its name:
//
//	go test ./test/faults -run 'TestCrashAtEveryWrite/k=7,after,userDeletes'
package faults
