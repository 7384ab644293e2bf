package main

// Why a right need not be used in a run of the stories.
const (
	forRepair   = "only after somebody else changed the object"
	forFallback = "only where the API server cannot stream a list as a watch, which client-go prefers"
	forOwners   = "no request: the admission plugin OwnerReferencesPermissionEnforcement asks whether who sets blockOwnerDeletion has it"
	forMetrics  = "only when somebody reads the metrics; test/apiserver does"
	forSeries   = "only when the same Event is repeated"
	forLoss     = "only before a group on a node that is down is given up; the stories on two nodes do"
	forConflict = "only after a conflict, to tell whether another group has its name"
)

var operatorExceptions = map[right]string{
	{"", "services", "patch", ""}:                                  forRepair,
	{"", "serviceaccounts", "patch", ""}:                           forRepair,
	{"policy", "poddisruptionbudgets", "patch", ""}:                forRepair,
	{"rbac.authorization.k8s.io", "rolebindings", "patch", ""}:     forRepair,
	{"events.k8s.io", "events", "patch", ""}:                       forSeries,
	{"", "nodes", "list", ""}:                                      forFallback,
	{"", "nodes", "get", ""}:                                       forLoss,
	{"snakepit.dev", "workerpools", "list", ""}:                    forFallback,
	{"snakepit.dev", "workerpools/finalizers", "update", ""}:       forOwners,
	{"snakepit.dev", "workergroups/finalizers", "update", ""}:      forOwners,
	{"authentication.k8s.io", "tokenreviews", "create", ""}:        forMetrics,
	{"authorization.k8s.io", "subjectaccessreviews", "create", ""}: forMetrics,
}

var routerExceptions = map[right]string{
	{"snakepit.dev", "workergroups", "get", ""}: forConflict,
}
