// Package node is the inside of a local cluster: the namespaces and the root
// file system it lives in, its first process, and the programs that process
// starts and keeps running (etcd, the Kubernetes programs, containerd).
//
// It does not touch the host beyond the cluster's own folder and cgroups; what
// the host must give (addresses, a veth pair, binaries) the caller brings.
package node
