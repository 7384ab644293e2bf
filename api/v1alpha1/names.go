package v1alpha1

// Labels and annotations. Everything under snakepit.dev/ is reserved: a pod template that sets such a key is refused.
const (
	// LabelPool names the pool an object belongs to.
	LabelPool = "snakepit.dev/pool"
	// LabelPoolUID carries the pool's UID: ownership is decided by it, never by the name.
	LabelPoolUID = "snakepit.dev/pool-uid"
	// LabelGroup names the group an object belongs to.
	LabelGroup = "snakepit.dev/group"
	// LabelGroupUID carries the group's UID.
	LabelGroupUID = "snakepit.dev/group-uid"
	// LabelRevision is the hash of the pod-relevant input that a group was made from.
	LabelRevision = "snakepit.dev/revision"
	// LabelScaleBy is part of status.selector in Pod mode; no pod carries it, so that an autoscaler on CPU fails loudly.
	LabelScaleBy = "snakepit.dev/scale-by"
	// LabelServing is "true" on the pod that the pool's Service sends calls to.
	LabelServing = "snakepit.dev/serving"
)

// RouterAccountSuffix follows the pool's name in the names of its ServiceAccount, Role and RoleBinding.
const RouterAccountSuffix = "-router"

// ScaleByExternal is the value of LabelScaleBy in status.selector.
const ScaleByExternal = "external"

// Finalizer holds a pool or group until everything it made is proven gone.
const Finalizer = "snakepit.dev/cleanup"

// AnnotationForceCleanup on a pool, with its UID as the value, ends the wait for what cannot be proven gone.
const AnnotationForceCleanup = "snakepit.dev/force-cleanup"

// AnnotationRecycle on a pool asks for fresh processes: any text for all workers, or "TEXT: 0,3" for those in some slots. It is carried out once
// for each text.
const AnnotationRecycle = "snakepit.dev/recycle"

// AnnotationDrain on a pool drains its group and lets no successor come to be, for as long as it is there. Its value is told as the reason; what is
// above MaxDrainText, or cannot be printed, is left out.
const AnnotationDrain = "snakepit.dev/drain"

// MaxDrainText bounds what is told of the value of AnnotationDrain, in characters.
const MaxDrainText = 128

// MaxRecycleText bounds the value of AnnotationRecycle, in characters.
const MaxRecycleText = 128

// Field managers of server-side apply: who owns which part of an object.
const (
	// FieldManagerOperator owns specs of children and the operator's conditions.
	FieldManagerOperator = "snakepit-operator"
	// FieldManagerGroup owns what the group's controller adds beside the pool's: spec.podUID and spec.nextPod of a group, the serving label of a pod.
	FieldManagerGroup = "snakepit-operator-group"
	// FieldManagerRouter owns status.router and the router's conditions.
	FieldManagerRouter = "snakepit-router"
)

// Containers, ports and paths inside a group's pod.
const (
	// WorkerContainer is the container that runs the supervisor and its workers.
	WorkerContainer = "worker"
	// RouterContainer is the native sidecar that serves callers.
	RouterContainer = "router"
	// PortGRPC serves callers.
	PortGRPC = 50051
	// PortAdmin serves health, readiness and Prometheus metrics over HTTP.
	PortAdmin = 9464
	// PortNameGRPC is the name of PortGRPC in the Service and the pod.
	PortNameGRPC = "grpc"
	// PortNameAdmin is the name of PortAdmin in the pod.
	PortNameAdmin = "admin"
	// BridgeDir holds the router's unix socket; writable for the router, read-only for the worker container.
	BridgeDir = "/run/snakepit/bridge"
	// BridgeSocket is the socket that the supervisor and its workers dial.
	BridgeSocket = BridgeDir + "/bridge.sock"
	// RouterStateDir is an emptyDir of the router alone: the last adopted spec.
	RouterStateDir = "/var/lib/snakepit"
	// WorkerHome is an emptyDir for HOME and TMPDIR of the worker container.
	WorkerHome = "/home/worker"
)

// Environment of the worker container.
const (
	// EnvBridge is the path of the router's socket.
	EnvBridge = "SNAKEPIT_BRIDGE"
	// EnvPodUID and EnvPodName identify the pod, in both containers.
	EnvPodUID  = "SNAKEPIT_POD_UID"
	EnvPodName = "SNAKEPIT_POD_NAME"
	// EnvDrainTimeout is how long the pod has from SIGTERM to its end, in seconds: spec.drain.timeout, for calls and sessions, and the cleanup tail.
	EnvDrainTimeout = "SNAKEPIT_DRAIN_TIMEOUT"
	// EnvSlots is spec.slots; absent for one call at a time.
	EnvSlots = "SNAKEPIT_SLOTS"
)

// CleanupTailSeconds is added to spec.drain.timeout for terminationGracePeriodSeconds: the time to end processes and flush answers.
const CleanupTailSeconds = 15
