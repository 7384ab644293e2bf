// Package resources turns a WorkerPool into the exact objects that should exist beside its pods: groups, Service, account and its rights.
//
// It is pure: it reads nothing from an API server and decides nothing about when something is made or deleted.
package resources
