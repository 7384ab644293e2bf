// Command local-cluster brings up a real Kubernetes of one or two nodes on a Linux machine
// that has root and Go and nothing else: no Docker engine, no image registry.
//
// The whole cluster lives in mount, PID, network, UTS and IPC namespaces of its
// own under one init process, so that ending that process ends the cluster, and
// two checkouts (or a containerd that is already there) never meet. On the host
// it has one folder, one end of a veth pair with two routes, and one cgroup
// folder in each hierarchy and node; "down" removes them. A second node has
// namespaces, a first process and a folder of its own, and reaches the rest only
// by a link to the first.
//
// It is a tool for development and tests. It is not a way to run anything that
// must be kept: etcd does not sync to disk and a dead cluster is made anew.
package main
