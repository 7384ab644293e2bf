// Package operator breaks the world around the operator, on a real API server, and checks that nothing of it shows in the end: watches that
// lag, an API server of yesterday, coalesced and expired watches, storms of errors, an API server that is killed, an operator that is away,
// users who change what is the operator's, missing rights and a quota of nothing, and random mixtures of all that.
//
// It is no test of single decisions, nor of crashes between two writes: package faults has those. No pod runs and there is no garbage
// collector: what is gone at the end, the operator removed. FAULTS=sample runs a part of it, chosen by FAULTS_SEED; otherwise all runs.
package operator
