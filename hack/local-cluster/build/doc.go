// Package build makes what a local cluster is made of, once for a machine: the
// Kubernetes binary, CoreDNS, the pause image and the Python base image. All of
// it lies in a cache outside the checkout, keyed by what it was made from.
//
// It knows nothing about a running cluster.
package build
