// Package faults breaks the operator at every write it makes, on a real API server, and checks that nothing of it shows in the end.
//
// A pool's life is told in chapters (growth: create, scale up, change of settings, scale down, delete; replacement: create, another image, loss
// of the pod, recycling, delete; again: create, delete, create under the same name, delete). Each is lived once without a fault and then once
// for each point, which is one write and what happens at it:
//
//   - before, after: the write is not sent, or its answer is lost, and its operator never speaks again; a new one starts, at once or after the
//     user changed something meanwhile;
//   - late: the same, and the write arrives when the successor has looked and before it writes; the successor sees it late;
//   - lost: the answer is lost and the operator lives on; what it wrote it sees late;
//   - held: nothing crashes; the write waits while the user puts an object of his own in the place of its target.
//
// When the step in which the fault happened has ended as in the life without one, the rest of the chapter is left out, up to its delete.
// It starts no pod and has no garbage collector: what is gone at the end, the operator removed. One failing point is repeated by its name:
//
//	go test ./test/faults -run 'TestCrashAtEveryWrite/growth/k=7,POST-pods,after,userDeletes'
package faults
