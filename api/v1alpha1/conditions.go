package v1alpha1

// The comments below are the tables of docs/reference/conditions.md: hack/conditions-docs reads them. Their form:
//
//	ConditionX (objects): when it is True. False: when. Absent: when.
//	ReasonX (conditions): meaning and cause. Cure: what to do.
//	EventX (type): when it is told. Cure: what to do.

// Condition types. Ready, Reconciling and Stalled follow kstatus; the latter two are absent when all is fine.
const (
	// ConditionReady (WorkerPool, WorkerGroup): the router is up and as many workers as wanted can take new sessions. False: not so; a pool
	// that was Ready for this generation stays so for 5 s, because the replacement of a worker takes milliseconds. Absent: never.
	ConditionReady = "Ready"
	// ConditionReconciling (WorkerPool): the operator, the kubelet or the router still makes changes for this generation, or tries to.
	// Absent: nothing is left to do.
	ConditionReconciling = "Reconciling"
	// ConditionStalled (WorkerPool, WorkerGroup): somebody must act; the message says what. Absent: nobody must.
	ConditionStalled = "Stalled"
	// ConditionWorkersAvailable (WorkerPool): as many workers as wanted are available. False: fewer; changes at once. Absent: never.
	ConditionWorkersAvailable = "WorkersAvailable"
	// ConditionWorkersReady (WorkerGroup, by the router): all wanted workers are ready. False: the reason says why not.
	// Absent: the router has not reported yet.
	ConditionWorkersReady = "WorkersReady"
	// ConditionRouterReady (WorkerPool, WorkerGroup): the pod of the current group is Ready. False: the reason says why not. Absent: never.
	ConditionRouterReady = "RouterReady"
	// ConditionAdapterLoaded (WorkerPool; WorkerGroup, by the router): the adapter was imported. False: the import failed; the message names
	// type and place. Unknown until the router reports. Absent: never on a pool.
	ConditionAdapterLoaded = "AdapterLoaded"
	// ConditionDraining (WorkerPool, WorkerGroup): a group takes no new sessions and ends by a deadline. Absent: no group ends.
	ConditionDraining = "Draining"
	// ConditionRecycling (WorkerPool): workers are replaced because the annotation snakepit.dev/recycle asks for it.
	// False: the annotation cannot be read. Absent: nothing is asked, or it is done.
	ConditionRecycling = "Recycling"
)

// Reasons of conditions.
const (
	// ReasonPending (Ready=Unknown): the operator has not looked yet. Cure: if it stays, look whether the operator runs:
	// kubectl -n snakepit-system get pods.
	ReasonPending = "Pending"
	// ReasonWorkersReady (Ready, WorkersAvailable, WorkersReady): all wanted workers are ready. Cure: none needed.
	ReasonWorkersReady = "WorkersReady"
	// ReasonWorkersStarting (Ready, WorkersAvailable, WorkersReady): some workers are not ready yet. Cure: wait; setup has startup.timeout.
	ReasonWorkersStarting = "WorkersStarting"
	// ReasonWorkersFailing (Ready, WorkersAvailable, WorkersReady): a worker ended before it was ready, or its setup hung; the message names it,
	// its error and the command that shows the rest. Cure: read the log, fix the adapter, or raise startup.timeout.
	ReasonWorkersFailing = "WorkersFailing"
	// ReasonCrashLooping (Ready, WorkersReady, Stalled): more workers died within crash.window than crash.maxRestarts; they are still replaced,
	// with growing pauses, and this ends when they hold. Cure: read kubectl logs POD -c worker, fix the adapter;
	// [how workers die](../how-to/settings.md#workers-that-die).
	ReasonCrashLooping = "CrashLooping"
	// ReasonScaledToZero (Ready, WorkersAvailable, WorkersReady): workers is 0. Cure: kubectl scale wpool NAME --replicas=N.
	ReasonScaledToZero = "ScaledToZero"
	// ReasonRouterReady (RouterReady): the pod is Ready. Cure: none needed.
	ReasonRouterReady = "RouterReady"
	// ReasonRouterStarting (RouterReady, Ready, WorkersAvailable): no group serves yet, or its pod runs and the router waits for the first worker or
	// has not reported.
	// Cure: wait; kubectl logs POD -c worker shows how far the first worker is.
	ReasonRouterStarting = "RouterStarting"
	// ReasonRouterUnreachable (RouterReady, Ready, WorkersAvailable): the pod was Ready and is not, or is ending, or its node is not Ready; what its
	// router wrote does not count. Cure: kubectl logs POD -c router; where the message names a node, repair that, or wait for failover.after.
	ReasonRouterUnreachable = "RouterUnreachable"
	// ReasonPodPending (RouterReady, Ready, WorkersAvailable): the pod does not exist yet, or its volumes and containers are being made.
	// Cure: wait; if it stays, kubectl describe pod POD names a volume whose Secret or ConfigMap is missing.
	ReasonPodPending = "PodPending"
	// ReasonImagePullFailed (RouterReady, Ready, WorkersAvailable): an image cannot be pulled; the message says why. The kubelet tries again,
	// with pauses of up to 5 min. Cure: correct the name, push the image, or set template.spec.imagePullSecrets; a changed spec is tried at once.
	ReasonImagePullFailed = "ImagePullFailed"
	// ReasonWrongArchitecture (RouterReady, Ready, WorkersAvailable, Stalled): the image has no build for the node's processor, or its programs
	// are built for another one (exec format error). Cure: build the image for the node's platform, or choose nodes with
	// template.spec.nodeSelector kubernetes.io/arch.
	ReasonWrongArchitecture = "WrongArchitecture"
	// ReasonUnschedulable (RouterReady, Ready, WorkersAvailable): no node fits the pod; the message is the scheduler's. It is tried again when
	// nodes or pods change. Cure: smaller requests, other node selection, more nodes.
	ReasonUnschedulable = "Unschedulable"
	// ReasonPodRejected (RouterReady, Ready, WorkersAvailable, Stalled): the API server refused the pod: quota, pod security, an admission webhook
	// or policy; the message has its words. It is tried again every 10 s. Cure: change what refuses it, or spec.template.
	ReasonPodRejected = "PodRejected"
	// ReasonContainerConfigInvalid (RouterReady, Ready, WorkersAvailable): a container cannot be made from the pod: a Secret, ConfigMap or key is
	// missing, or its user is a name or root. The kubelet tries again. Cure: make what is missing, or correct spec.template.
	ReasonContainerConfigInvalid = "ContainerConfigInvalid"
	// ReasonContainerStartFailed (RouterReady, Ready, WorkersAvailable, Stalled): the container runtime cannot start a container: no python3 in the
	// image, a full disk, a device that is not there. The kubelet tries again. Cure: what the message says; kubectl describe pod POD.
	ReasonContainerStartFailed = "ContainerStartFailed"
	// ReasonContainerCrashLooping (RouterReady, Ready, WorkersAvailable, Stalled): a container of the pod ends again and again; the kubelet starts
	// it again with growing pauses. Cure: read kubectl logs POD -c CONTAINER --previous.
	ReasonContainerCrashLooping = "ContainerCrashLooping"
	// ReasonOutOfMemory (RouterReady, Ready, WorkersAvailable, Stalled): a container reaches its memory limit again and again, and the kernel kills
	// it. Cure: raise its limit in template, lower workers, or set recycle.maxMemory.
	ReasonOutOfMemory = "OutOfMemory"
	// ReasonPodEvicted (RouterReady, Ready, WorkersAvailable): the node ended the pod because memory or disk ran short on it, or because the pod
	// wrote more than its limit; it is replaced, after 30 s if it had not run for a minute. Cure: requests and limits for memory and
	// ephemeral-storage in template, a volume for what is written, or a larger node.
	ReasonPodEvicted = "PodEvicted"
	// ReasonPodFailed (RouterReady, Ready, WorkersAvailable): the pod ended as a whole (node shut down, node refused it); it is replaced, after 30 s
	// if it had not run for a minute. Cure: what the message says; kubectl describe pod POD.
	ReasonPodFailed = "PodFailed"
	// ReasonAdapterLoaded (AdapterLoaded): the adapter was imported. Cure: none needed.
	ReasonAdapterLoaded = "AdapterLoaded"
	// ReasonForkUnsafe (AdapterLoaded): the adapter was imported; workers are spawned, because forking it is not safe.
	// Cure: none needed; starts are slower.
	ReasonForkUnsafe = "ForkUnsafe"
	// ReasonAdapterLoading (AdapterLoaded=Unknown): the import runs, or the router has not reported. Cure: wait.
	ReasonAdapterLoading = "AdapterLoading"
	// ReasonAdapterFailed (AdapterLoaded, Ready, Stalled): the import raised; the message names the exception's type and place. The container stays
	// up and tries again. Cure: read kubectl logs POD -c worker, fix image or adapter.
	ReasonAdapterFailed = "AdapterFailed"
	// ReasonThreadSafetyNotDeclared (AdapterLoaded, Ready, Stalled): slots is above 1, and the adapter does not say that its methods may run at the
	// same time. Cure: set thread_safe = True in its class, or snakepit.server(thread_safe=True), if that is so; else remove profile and slots.
	ReasonThreadSafetyNotDeclared = "ThreadSafetyNotDeclared"

	// ReasonProgressing (Reconciling): something is created or changed; the message is what it waits for. Cure: wait, or what the message says.
	ReasonProgressing = "Progressing"
	// ReasonReplacing (Reconciling): the group is drained, then its successor is made, because the pod's own fields changed, or its
	// node or an annotation asks for it.
	// Cure: wait, at most drain.timeout and the pod's end.
	ReasonReplacing = "Replacing"
	// ReasonDraining (Draining, Ready, RouterReady, WorkersAvailable, WorkersReady): bound sessions and running calls have until the deadline. Cure: none needed.
	ReasonDraining = "Draining"
	// ReasonDrainHeld (Draining): the drain's deadline passed, and spec.drain.onDeadline is Hold: sessions or calls are left, and the group stays for them.
	// Cure: end them, or set spec.drain.onDeadline to Terminate, which ends them at once.
	ReasonDrainHeld = "DrainHeld"
	// ReasonDrained (Ready, RouterReady, WorkersAvailable): the pool is drained, because the annotation snakepit.dev/drain asks for it; no worker runs.
	// Cure: remove the annotation (kubectl annotate wpool NAME snakepit.dev/drain-); a fresh group follows.
	ReasonDrained = "Drained"
	// ReasonNodeLost (Draining): a group's node was not Ready for spec.failover.after. A successor was made; processes of the old group may still run there.
	// Cure: repair the node; or delete its Node object, or taint it with node.kubernetes.io/out-of-service, once it is surely off.
	ReasonNodeLost = "NodeLost"
	// ReasonRecycling (Recycling): workers are replaced by fresh processes, one at a time. Cure: wait.
	ReasonRecycling = "Recycling"
	// ReasonRecycleRequestInvalid (Recycling=False): the annotation snakepit.dev/recycle cannot be read.
	// Cure: any text for all workers, TEXT: 0,3 for those in slots 0 and 3.
	ReasonRecycleRequestInvalid = "RecycleRequestInvalid"
	// ReasonTerminating (Ready): the object is being deleted; the message says what is left, since when, and how to force. Cure: wait, or force.
	ReasonTerminating = "Terminating"
	// ReasonNameTaken (Ready, RouterReady, WorkersAvailable, Stalled): a Service, account, role or pod of the name belongs to somebody else; it is never touched.
	// Cure: delete or rename it, or rename the pool.
	ReasonNameTaken = "NameTaken"
	// ReasonChildRejected (Ready, RouterReady, WorkersAvailable, Stalled): the API server refused a Service, account, role or group of the pool, or a
	// change of one of these or of a pod: quota, policy, the operator's rights. It is tried again every 10 s. Cure: what the message says.
	ReasonChildRejected = "ChildRejected"
	// ReasonInvalidSpec (Ready, RouterReady, WorkersAvailable, Stalled): no pod can be made from template; the message has the path. Cure: fix it.
	ReasonInvalidSpec = "InvalidSpec"
	// ReasonCleanupBlocked (Ready, Stalled): a pod is left although its own grace has passed; its node may be lost.
	// Cure: repair the node, wait for cleanup.timeout, or force.
	ReasonCleanupBlocked = "CleanupBlocked"
	// ReasonCleanupForced (Ready): the end was forced by hand; the Events say where processes may still run. Cure: look there.
	ReasonCleanupForced = "CleanupForced"
)

// Reasons of Events (events.k8s.io). A pool that becomes Stalled, or whose annotation cannot be read, is told too, as a Warning with the
// condition's own reason.
const (
	// EventPoolReady (Normal): Ready became True, or is True for a changed spec. Cure: none needed.
	EventPoolReady = "PoolReady"
	// EventPoolNotReady (Warning): Ready became False for a reason that is no change of the spec and no deletion. Cure: what the note says.
	EventPoolNotReady = "PoolNotReady"
	// EventGroupCreated (Normal): a group is made; the note says why. Cure: none needed.
	EventGroupCreated = "GroupCreated"
	// EventGroupUpdated (Normal): a group is given the pool's live settings, the number of workers among them. Cure: none needed.
	EventGroupUpdated = "GroupUpdated"
	// EventGroupDeleted (Normal): a group is deleted; the note says why. Cure: none needed.
	EventGroupDeleted = "GroupDeleted"
	// EventPodCreated (Normal, about the group): its pod is made; the note says why. Cure: none needed.
	EventPodCreated = "PodCreated"
	// EventPodDeleted (Normal, about the group): its pod is deleted; the note says why. Cure: none needed.
	EventPodDeleted = "PodDeleted"
	// EventDrainStarted (Normal): a group takes no new sessions; the note has deadline and cause. Cure: none needed.
	EventDrainStarted = "DrainStarted"
	// EventDrainTimeout (Warning): the deadline passed before the drain was complete; sessions are lost. Cure: raise drain.timeout.
	EventDrainTimeout = "DrainTimeout"
	// EventWorkerStarted (Normal): more workers are ready than before. Cure: none needed.
	EventWorkerStarted = "WorkerStarted"
	// EventWorkerCrashed (Warning): a worker ended and was replaced; the note has the cause. Cure: read its log.
	EventWorkerCrashed = "WorkerCrashed"
	// EventWorkerStuck (Warning): a worker gave no sign of life, was killed and replaced (STUCK). Cure: its stacks are in the log.
	EventWorkerStuck = "WorkerStuck"
	// EventWorkerTimedOut (Warning): a call ran past its limit; its worker was killed and replaced (CALL_TIMEOUT).
	// Cure: its stacks are in the log; raise calls.timeout, or split the call.
	EventWorkerTimedOut = "WorkerTimedOut"
	// EventWorkerOOM (Warning): a worker was killed for memory and replaced (MEMORY_GUARD, CONTAINER_OOM).
	// Cure: raise the limit in template, lower workers, or set recycle.maxMemory.
	EventWorkerOOM = "WorkerOutOfMemory"
	// EventNodeLost (Warning): a group's node was not Ready for spec.failover.after, and a successor is made. Cure: repair the node.
	EventNodeLost = "NodeLost"
	// EventRecycled (Normal): what the annotation snakepit.dev/recycle asked for is done. Cure: none needed.
	EventRecycled = "WorkersRecycled"
	// EventSessionLost (Warning): sessions ended without their callers' wish. Cure: the Events before it say why.
	EventSessionLost = "SessionLost"
	// EventCleanupForced (Warning): a pod was removed without proof of its end; the note has the node. Cure: look there for its processes.
	EventCleanupForced = "CleanupForced"
)
