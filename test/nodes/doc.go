// Package nodes tests what the operator does about nodes: cordoned, lost, back, gone; and drains that users ask for. The API server and the
// controllers for disruption budgets and for pods without a node are Kubernetes' own; a stand-in plays scheduler, kubelet and router.
package nodes
