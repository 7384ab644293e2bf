package main

// test is one of the fault tests, in the words of the plan for them.
type test struct {
	id, injected, holds string
}

// operatorTests put the operator under faults.
var operatorTests = []test{
	{"R1", "crash at every write, before and after it is sent; the user acts meanwhile", "converges, no leftover, nothing made twice"},
	{"R2", "watches late by 50 ms to 2 s", "creates = needed"},
	{"R3", "reconnect to a stale API server after delete and re-create", "nothing of the new UID is deleted"},
	{"R4", "coalesced events, relist after 410", "converges"},
	{"R5", "409, 429, 500, resets; API server killed and back", "converges, backs off"},
	{"R6", "no operator while pods, objects and the namespace change", "converges"},
	{"R7", "leader killed, stopped for longer than its lease, asked to end", "late writes do no harm"},
	{"R8", "each managed field and child changed or removed", "restored, or declared the user's"},
	{"R9", "nothing, after converging", "no write"},
	{"R10", "every property of the schema at and beyond its bounds", "refused with a message, or reached and back"},
	{"R11", "bad image, quota, import error, crash loop …, then repaired", "a condition says why; no churn; heals"},
	{"R12", "rights taken, quota 0", "a condition says so, and where none may be written log, metric and readiness; heals on return"},
	{"R13", "an earlier operator's pools under a new operator", "no pod restarted without need"},
	{"R14", "random user actions and faults", "model = cluster at each quiet point"},
	{"R15", "100, 500, 1,000 pools", "converges, then quiet"},
}

// orphanTests look for what is left behind.
var orphanTests = []test{
	{"O1", "nothing: an audit after every test", "no object, route, binding or process whose owner is gone"},
	{"O2", "namespace deleted with live pools; the operator's own, too", "gone, or a documented way out"},
	{"O3", "operator removed first; CRD removed first", "uninstall refuses, or ends the pods first"},
	{"O4", "pods deleted by force; node lost; router and worker cut off", "never moved silently; no two owners"},
	{"O5", "deletion by orphan, foreground, background", "what is written down holds"},
	{"O6", "process trees of all shapes, ended in all ways", "all that was started is gone; others untouched"},
	{"O7", "router killed for good outside of a cluster", "workers end by themselves"},
	{"O8", "hooks that hang or raise", "bounded by a deadline, told, then forced"},
}

// glance is what the page begins with: the figures of these tests whose name contains the text.
var glance = []struct {
	what, id, text string
}{
	{"worst recovery from a crash at any write", "R1", "worst recovery"},
	{"writes of a pool's life (W)", "R1", "writes of a life"},
	{"API calls in a pool's life", "R1", "API calls of a life"},
	{"failover", "R7", "to the next leader"},
}
