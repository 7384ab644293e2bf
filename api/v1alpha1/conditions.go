package v1alpha1

// Condition types. Ready, Reconciling and Stalled follow kstatus; the latter two are absent when all is fine.
const (
	// ConditionReady: the router serves and enough workers are available.
	ConditionReady = "Ready"
	// ConditionReconciling: the operator is still making changes.
	ConditionReconciling = "Reconciling"
	// ConditionStalled: nothing will change until somebody acts.
	ConditionStalled = "Stalled"
	// ConditionWorkersAvailable (pool): as many workers as wanted are available.
	ConditionWorkersAvailable = "WorkersAvailable"
	// ConditionWorkersReady (group, written by the router): all wanted workers are ready.
	ConditionWorkersReady = "WorkersReady"
	// ConditionRouterReady: the router's pod is Ready.
	ConditionRouterReady = "RouterReady"
	// ConditionAdapterLoaded (written by the router): the user's adapter was imported.
	ConditionAdapterLoaded = "AdapterLoaded"
	// ConditionDraining: no new sessions; bound ones end by a deadline. Absent when not draining.
	ConditionDraining = "Draining"
)

// Reasons of conditions.
const (
	// ReasonPending: not looked at yet.
	ReasonPending = "Pending"
	// ReasonWorkersReady: all wanted workers are ready.
	ReasonWorkersReady = "WorkersReady"
	// ReasonWorkersStarting: some workers are not ready yet.
	ReasonWorkersStarting = "WorkersStarting"
	// ReasonWorkersFailing: workers end before they are ready, or again and again.
	ReasonWorkersFailing = "WorkersFailing"
	// ReasonScaledToZero: the pool wants no worker.
	ReasonScaledToZero = "ScaledToZero"
	// ReasonRouterReady: the router's pod is Ready.
	ReasonRouterReady = "RouterReady"
	// ReasonRouterStarting: the pod exists and its router is not Ready yet.
	ReasonRouterStarting = "RouterStarting"
	// ReasonRouterUnreachable: what the router wrote does not count, because its pod is not the current, Ready one.
	ReasonRouterUnreachable = "RouterUnreachable"
	// ReasonPodPending: the pod is not scheduled or its containers wait.
	ReasonPodPending = "PodPending"
	// ReasonImagePullFailed: an image cannot be pulled.
	ReasonImagePullFailed = "ImagePullFailed"
	// ReasonUnschedulable: no node fits the pod.
	ReasonUnschedulable = "Unschedulable"
	// ReasonPodRejected: the API server refused the pod.
	ReasonPodRejected = "PodRejected"
	// ReasonPodFailed: the pod ended, or a container of it ends again and again.
	ReasonPodFailed = "PodFailed"
	// ReasonAdapterLoaded: the adapter was imported.
	ReasonAdapterLoaded = "AdapterLoaded"
	// ReasonForkUnsafe: the adapter was imported, and workers are spawned because forking it is not safe.
	ReasonForkUnsafe = "ForkUnsafe"
	// ReasonAdapterLoading: the import runs.
	ReasonAdapterLoading = "AdapterLoading"
	// ReasonAdapterFailed: the import raised; the message names the exception's type and place.
	ReasonAdapterFailed = "AdapterFailed"
	// ReasonThreadSafetyNotDeclared: slots is above 1, and the adapter does not say that its methods may run at the same time.
	ReasonThreadSafetyNotDeclared = "ThreadSafetyNotDeclared"

	// ReasonProgressing: the operator is creating, changing or replacing something.
	ReasonProgressing = "Progressing"
	// ReasonReplacing: the group is drained and replaced because the pod's own fields changed.
	ReasonReplacing = "Replacing"
	// ReasonDraining: running calls and bound sessions have until the deadline.
	ReasonDraining = "Draining"
	// ReasonTerminating: the object is being deleted; the message says what is left, since when, and how to force.
	ReasonTerminating = "Terminating"
	// ReasonNameTaken: a child's name is used by an object of another owner.
	ReasonNameTaken = "NameTaken"
	// ReasonChildRejected: the API server refused a Service, account, role or group of the pool (quota, policy, missing rights).
	ReasonChildRejected = "ChildRejected"
	// ReasonInvalidSpec: the API server accepted the object, but a child of it cannot be made.
	ReasonInvalidSpec = "InvalidSpec"
	// ReasonCleanupBlocked: a pod is left after its own grace has passed; the message says where and how to force.
	ReasonCleanupBlocked = "CleanupBlocked"
	// ReasonCleanupForced: cleanup.timeout passed or it was forced; processes may still run where the message says.
	ReasonCleanupForced = "CleanupForced"
)

// Reasons of Events (events.k8s.io).
const (
	EventWorkerStarted  = "WorkerStarted"
	EventWorkerCrashed  = "WorkerCrashed"
	EventSessionLost    = "SessionLost"
	EventDrainStarted   = "DrainStarted"
	EventDrainTimeout   = "DrainTimeout"
	EventCleanupBlocked = "CleanupBlocked"
	EventCleanupForced  = "CleanupForced"
	EventGroupCreated   = "GroupCreated"
	EventGroupDeleted   = "GroupDeleted"
	EventPodCreated     = "PodCreated"
	EventPodDeleted     = "PodDeleted"
	EventNameTaken      = "NameTaken"
)
