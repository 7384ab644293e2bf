// Package pki makes the certificates, keys and kubeconfigs of one cluster.
//
// It is not a certificate authority to rely on: keys lie in plain files and
// nothing is renewed, for a cluster that lives for days at most.
package pki
