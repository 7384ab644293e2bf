package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PodSettings is what a group's pod is made of. A change makes a new revision: drain, delete, successor.
type PodSettings struct {
	// image holds Python, the snakepit package and the adapter.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="!self.matches('\\\\s')",message="image must not contain white space; write it as registry/name:tag"
	Image string `json:"image"`

	// adapter is the class, object or module that holds the tools, as module:Class or module:object.
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*$')",message="adapter must be written as module:Class or module:object, for example my_package.my_module:MyAdapter"
	Adapter string `json:"adapter"`

	// args are texts for the adapter: a class is made with them, as positional arguments, and its module finds them in sys.argv[1:].
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=4096
	// +listType=atomic
	// +optional
	Args []string `json:"args,omitempty"`

	// protocol that workers speak with the router. Defaults to Snakepit.
	// +kubebuilder:default=Snakepit
	// +optional
	Protocol Protocol `json:"protocol,omitempty"`

	// profile says how many calls a worker serves at a time: Process one, Thread as many as slots. Defaults to Process.
	// +kubebuilder:default=Process
	// +optional
	Profile Profile `json:"profile,omitempty"`

	// slots is the number of calls that a worker of profile Thread serves at a time; there it is required. The adapter must declare
	// that its methods may run at the same time: thread_safe = True in its class, or snakepit.server(thread_safe=True).
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=256
	// +optional
	Slots int32 `json:"slots,omitempty"`

	// drain bounds how long running calls and bound sessions may take when a group ends.
	// +kubebuilder:default={}
	// +optional
	Drain DrainSettings `json:"drain,omitzero"`

	// template overlays the pod: resources, env, volumes, scheduling. The worker container is named worker.
	// +optional
	Template *PodTemplate `json:"template,omitempty"`
}

// LiveSettings is what the router and the supervisor follow while they run. A change restarts no pod.
type LiveSettings struct {
	// sessions says how calls that name a session meet their worker.
	// +kubebuilder:default={}
	// +optional
	Sessions SessionSettings `json:"sessions,omitzero"`

	// queue bounds the calls that wait for a worker.
	// +kubebuilder:default={}
	// +optional
	Queue QueueSettings `json:"queue,omitzero"`

	// calls bounds each call.
	// +kubebuilder:default={}
	// +optional
	Calls CallSettings `json:"calls,omitzero"`

	// startup says how workers are started.
	// +kubebuilder:default={}
	// +optional
	Startup StartupSettings `json:"startup,omitzero"`

	// recycle says when a worker is replaced by a fresh process.
	// +kubebuilder:default={}
	// +optional
	Recycle RecycleSettings `json:"recycle,omitzero"`

	// heartbeat says when a silent worker is taken for stuck.
	// +kubebuilder:default={}
	// +optional
	Heartbeat HeartbeatSettings `json:"heartbeat,omitzero"`

	// crash says what follows from the death of workers.
	// +kubebuilder:default={}
	// +optional
	Crash CrashSettings `json:"crash,omitzero"`

	// cleanup bounds how long deletion waits for proof that nothing is left.
	// +kubebuilder:default={}
	// +optional
	Cleanup CleanupSettings `json:"cleanup,omitzero"`
}

// Protocol that workers speak with the router.
// +kubebuilder:validation:Enum=Snakepit
type Protocol string

// ProtocolSnakepit is the bridge: workers run the snakepit package.
const ProtocolSnakepit Protocol = "Snakepit"

// Profile says how many calls a worker serves at a time.
// +kubebuilder:validation:Enum=Process;Thread
type Profile string

const (
	// ProfileProcess serves one call at a time in each worker.
	ProfileProcess Profile = "Process"
	// ProfileThread serves spec.slots calls at a time in each worker, in threads; coroutines share one event loop.
	ProfileThread Profile = "Thread"
)

// Affinity says what happens to a call of a session whose worker is busy or gone.
// +kubebuilder:validation:Enum=Hint;StrictQueue;StrictFailFast
type Affinity string

const (
	// AffinityHint prefers the worker of the session and may move it.
	AffinityHint Affinity = "Hint"
	// AffinityStrictQueue waits for the worker of the session and never moves it.
	AffinityStrictQueue Affinity = "StrictQueue"
	// AffinityStrictFailFast refuses at once while the worker of the session is busy.
	AffinityStrictFailFast Affinity = "StrictFailFast"
)

// SessionCreation says which calls may start the life of a session.
// +kubebuilder:validation:Enum=Explicit;Implicit
type SessionCreation string

const (
	// SessionCreationExplicit allows only OpenSession, or a call with snakepit-session-create: true.
	SessionCreationExplicit SessionCreation = "Explicit"
	// SessionCreationImplicit allows any call that names a session.
	SessionCreationImplicit SessionCreation = "Implicit"
)

// SessionSettings says how calls that name a session meet their worker.
// +kubebuilder:validation:XValidation:rule="!has(self.idleTimeout) || (duration(self.idleTimeout) >= duration('1s') && duration(self.idleTimeout) <= duration('168h'))",message="sessions.idleTimeout must be between 1s and 168h"
type SessionSettings struct {
	// affinity of calls to the worker of their session. Defaults to StrictQueue.
	// +kubebuilder:default=StrictQueue
	// +optional
	Affinity Affinity `json:"affinity,omitempty"`

	// creation says which calls may start a session. Defaults to Explicit for the strict affinities and Implicit for Hint.
	// +optional
	Creation SessionCreation `json:"creation,omitempty"`

	// maxPerWorker bounds the sessions that one worker holds. Defaults to 16.
	// +kubebuilder:default=16
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	// +optional
	MaxPerWorker int32 `json:"maxPerWorker,omitempty"`

	// idleTimeout ends a session that has nothing queued, running or streaming for so long. Defaults to 1h.
	// +kubebuilder:default="1h"
	// +optional
	IdleTimeout *metav1.Duration `json:"idleTimeout,omitempty"`
}

// QueueSettings bounds the calls that wait for a worker.
// +kubebuilder:validation:XValidation:rule="!has(self.timeout) || (duration(self.timeout) >= duration('10ms') && duration(self.timeout) <= duration('1h'))",message="queue.timeout must be between 10ms and 1h"
type QueueSettings struct {
	// maxLength bounds the calls that wait in a group. Defaults to 1000.
	// +kubebuilder:default=1000
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	// +optional
	MaxLength int32 `json:"maxLength,omitempty"`

	// perSession bounds the calls that wait in one session. Defaults to 16.
	// +kubebuilder:default=16
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	// +optional
	PerSession int32 `json:"perSession,omitempty"`

	// timeout bounds the wait of one call. Defaults to 10s.
	// +kubebuilder:default="10s"
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`

	// shares weigh tenants, the callers' metadata key snakepit-tenant, against each other while calls wait. Who is not listed has weight 1.
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, a.tenant == b.tenant))",message="queue.shares names a tenant twice; give each tenant one entry"
	// +listType=atomic
	// +optional
	Shares []TenantShare `json:"shares,omitempty"`
}

// TenantShare is the weight of one tenant.
type TenantShare struct {
	// tenant as its callers send it in snakepit-tenant.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9._:@/-]+$')",message="a tenant has only A-Z, a-z, 0-9 and the characters . _ : @ / -"
	Tenant string `json:"tenant"`

	// weight of the tenant: one with weight 3 gets three times the workers of one with weight 1 while both wait.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	Weight int32 `json:"weight"`
}

// CallSettings bounds each call.
// +kubebuilder:validation:XValidation:rule="!has(self.timeout) || (duration(self.timeout) >= duration('100ms') && duration(self.timeout) <= duration('24h'))",message="calls.timeout must be between 100ms and 24h"
// +kubebuilder:validation:XValidation:rule="!has(self.killAfter) || (duration(self.killAfter) >= duration('100ms') && duration(self.killAfter) <= duration('1h'))",message="calls.killAfter must be between 100ms and 1h"
// +kubebuilder:validation:XValidation:rule="!has(self.streamTimeout) || (duration(self.streamTimeout) >= duration('100ms') && duration(self.streamTimeout) <= duration('168h'))",message="calls.streamTimeout must be between 100ms and 168h"
// +kubebuilder:validation:XValidation:rule="!has(self.streamIdleTimeout) || (duration(self.streamIdleTimeout) >= duration('100ms') && duration(self.streamIdleTimeout) <= duration('168h'))",message="calls.streamIdleTimeout must be between 100ms and 168h; leave it out for no bound"
type CallSettings struct {
	// timeout bounds the run of one call with one answer, whatever deadline its caller set. Defaults to 300s.
	// +kubebuilder:default="300s"
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`

	// killAfter is the time that a handler has to notice that timeout passed, before its worker is killed. Defaults to 10s.
	// +kubebuilder:default="10s"
	// +optional
	KillAfter *metav1.Duration `json:"killAfter,omitempty"`

	// streamTimeout bounds the run of a call that streams requests or answers, in place of timeout. Defaults to 900s.
	// +kubebuilder:default="900s"
	// +optional
	StreamTimeout *metav1.Duration `json:"streamTimeout,omitempty"`

	// streamIdleTimeout ends a stream on which no message passed for so long, in either direction. No bound by default.
	// +optional
	StreamIdleTimeout *metav1.Duration `json:"streamIdleTimeout,omitempty"`

	// maxMessageBytes bounds a request and each answer. Defaults to 104857600.
	// +kubebuilder:default=104857600
	// +kubebuilder:validation:Minimum=1024
	// +kubebuilder:validation:Maximum=1073741824
	// +optional
	MaxMessageBytes int64 `json:"maxMessageBytes,omitempty"`
}

// StartMethod says how a worker process comes to be.
// +kubebuilder:validation:Enum=Auto;Fork;Spawn
type StartMethod string

const (
	// StartMethodAuto forks where that is proven safe and spawns otherwise.
	StartMethodAuto StartMethod = "Auto"
	// StartMethodFork forks every worker from a process that has loaded the adapter.
	StartMethodFork StartMethod = "Fork"
	// StartMethodSpawn starts a fresh Python for every worker.
	StartMethodSpawn StartMethod = "Spawn"
)

// StartupSettings says how workers are started.
// +kubebuilder:validation:XValidation:rule="!has(self.timeout) || (duration(self.timeout) >= duration('1s') && duration(self.timeout) <= duration('1h'))",message="startup.timeout must be between 1s and 1h"
// +kubebuilder:validation:XValidation:rule="!has(self.batchInterval) || (duration(self.batchInterval) >= duration('0s') && duration(self.batchInterval) <= duration('1m'))",message="startup.batchInterval must be between 0s (no pause) and 1m"
type StartupSettings struct {
	// method of starting a worker. Defaults to Auto.
	// +kubebuilder:default=Auto
	// +optional
	Method StartMethod `json:"method,omitempty"`

	// batchSize bounds the workers that start at a time. Defaults to 10.
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=256
	// +optional
	BatchSize int32 `json:"batchSize,omitempty"`

	// batchInterval is the pause between the end of a batch and the next one; 0s for none. Defaults to 500ms.
	// +kubebuilder:default="500ms"
	// +optional
	BatchInterval *metav1.Duration `json:"batchInterval,omitempty"`

	// timeout bounds the import of the adapter, and the setup of each worker. Defaults to 60s.
	// +kubebuilder:default="60s"
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}

// DrainSettings bounds the end of a group.
// +kubebuilder:validation:XValidation:rule="!has(self.timeout) || (duration(self.timeout) >= duration('1s') && duration(self.timeout) <= duration('24h'))",message="drain.timeout must be between 1s and 24h"
type DrainSettings struct {
	// timeout after which bound sessions are lost, with the cause told to their callers, and running calls end. Defaults to 30s.
	// +kubebuilder:default="30s"
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`

	// onDeadline says what follows when sessions or calls are left at the end of timeout. Terminate ends them. Hold lets the group stay until
	// they have ended: for drains that the operator starts for a replacement, a cordoned node or the annotation snakepit.dev/drain; never when
	// the pool is deleted or the node is lost. Hold counts for drains that begin while it is set; Terminate ends one that is held at once.
	// A change restarts no pod. Defaults to Terminate.
	// +optional
	OnDeadline DrainDeadline `json:"onDeadline,omitempty"`
}

// DrainDeadline says what follows when something is left at the deadline of a drain.
// +kubebuilder:validation:Enum=Terminate;Hold
type DrainDeadline string

const (
	// DrainTerminate ends sessions and calls that are left; their callers are told.
	DrainTerminate DrainDeadline = "Terminate"
	// DrainHold lets the group stay until nothing is left.
	DrainHold DrainDeadline = "Hold"
)

// FailoverSettings says what follows from the loss of a node.
// +kubebuilder:validation:XValidation:rule="!has(self.after) || (duration(self.after) >= duration('10s') && duration(self.after) <= duration('1h'))",message="failover.after must be between 10s and 1h"
type FailoverSettings struct {
	// after so long a time in which the node of the group's pod was not Ready, a successor is made, although the end of the old pod is not
	// proven. Above 5m it has no effect by itself: Kubernetes then deletes the pods of such a node, unless template.spec.tolerations raise the
	// tolerationSeconds of node.kubernetes.io/unreachable and node.kubernetes.io/not-ready. Defaults to 60s.
	// +kubebuilder:default="60s"
	// +optional
	After *metav1.Duration `json:"after,omitempty"`
}

// CleanupSettings bounds deletion.
// +kubebuilder:validation:XValidation:rule="!has(self.timeout) || (duration(self.timeout) >= duration('10s') && duration(self.timeout) <= duration('24h'))",message="cleanup.timeout must be between 10s and 24h"
type CleanupSettings struct {
	// timeout, counted from the end of the pod's grace, after which cleanup is forced and an Event says so. Defaults to 5m.
	// +kubebuilder:default="5m"
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}
