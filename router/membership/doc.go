// Package membership keeps the router's picture of its group true, and tells the group what the router sees.
//
// There are two sources of the picture. Kubernetes watches exactly one WorkerGroup by name and keeps the last adopted spec
// on the router's own volume, so that a router that starts during an API outage serves at once with what it knew (stale).
// File reads the same fields from a YAML file, for a router without Kubernetes. Both hand every change to an Adopter, with
// the defaults of the CRD filled in.
//
// Reporter is the way back: it writes status.router and the router's two conditions by server-side apply, seldom and only
// when something changed. Report never blocks and nothing here is on the path of a call.
//
// It is not: a controller (it changes nothing but its own part of one status), a place for decisions about workers or
// sessions, or a check of the pod template (the API server does that; the router never uses it).
package membership
