// Package upgrade holds R13: an operator of an earlier commit makes pools, then the CRDs and the operator of this checkout take over, on a real
// API server; then the earlier operator takes over again, with the CRDs of this checkout, and at last this one. No pod may be restarted, no group
// replaced or drained, and who takes over may write little.
//
//	KUBEBUILDER_ASSETS=… UPGRADE_FROM=3e1f8fb go test -v ./test/upgrade
//
// There is no kubelet but the fixture's: what sessions and calls live through on a real node is not seen here.
package upgrade
