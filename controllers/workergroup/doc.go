// Package workergroup keeps one pod alive for each WorkerGroup and says in the group's status what became of it.
//
// It does not talk to the router and starts no worker: the router follows the group by itself. It does not decide when a group ends; the
// pool's controller does.
package workergroup
