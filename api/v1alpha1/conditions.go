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
	// ConditionRecycling (pool): workers are replaced because the annotation snakepit.dev/recycle asks for it. False when it cannot be read.
	// Absent when there is nothing to say.
	ConditionRecycling = "Recycling"
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
	// ReasonCrashLooping: more workers died within crash.window than crash.maxRestarts; they are still replaced, with growing pauses.
	ReasonCrashLooping = "CrashLooping"
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
	// ReasonDrainHeld: the drain's deadline passed, and spec.drain.onDeadline is Hold: sessions or calls are left, and the group stays for them.
	// Cure: end them, or set spec.drain.onDeadline to Terminate, which ends them at once.
	ReasonDrainHeld = "DrainHeld"
	// ReasonDrained: the pool is drained, because the annotation snakepit.dev/drain asks for it; no worker runs.
	// Cure: remove the annotation (kubectl annotate wpool NAME snakepit.dev/drain-); a fresh group follows.
	ReasonDrained = "Drained"
	// ReasonNodeLost: a group's node was not Ready for spec.failover.after. A successor was made; processes of the old group may still run there.
	// Cure: repair the node; or delete its Node object, or taint it with node.kubernetes.io/out-of-service, once it is surely off.
	ReasonNodeLost = "NodeLost"
	// ReasonRecycling: workers are replaced by fresh processes, one at a time.
	ReasonRecycling = "Recycling"
	// ReasonRecycleRequestInvalid: the annotation snakepit.dev/recycle cannot be read; the message says how to write it.
	ReasonRecycleRequestInvalid = "RecycleRequestInvalid"
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
	EventWorkerStuck    = "WorkerStuck"
	EventWorkerTimedOut = "WorkerTimedOut"
	EventWorkerOOM      = "WorkerOutOfMemory"
	EventSessionLost    = "SessionLost"
	EventDrainStarted   = "DrainStarted"
	EventDrainTimeout   = "DrainTimeout"
	EventNodeLost       = "NodeLost"
	EventCleanupBlocked = "CleanupBlocked"
	EventCleanupForced  = "CleanupForced"
	EventGroupCreated   = "GroupCreated"
	EventGroupDeleted   = "GroupDeleted"
	EventPodCreated     = "PodCreated"
	EventPodDeleted     = "PodDeleted"
	EventNameTaken      = "NameTaken"
	EventRecycled       = "WorkersRecycled"
)
