// Package resources turns a WorkerGroup into the exact pod that should exist.
//
// It is pure: it reads nothing from an API server and decides nothing about when a pod is made or deleted; that is the planner's part.
package resources
