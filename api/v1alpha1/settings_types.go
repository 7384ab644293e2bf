package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
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

	// args are given to the adapter, in ctx.args of setup.
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

	// heartbeat says when a silent worker is taken for stuck.
	// +kubebuilder:default={}
	// +optional
	Heartbeat HeartbeatSettings `json:"heartbeat,omitzero"`

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
}

// CleanupSettings bounds deletion.
// +kubebuilder:validation:XValidation:rule="!has(self.timeout) || (duration(self.timeout) >= duration('10s') && duration(self.timeout) <= duration('24h'))",message="cleanup.timeout must be between 10s and 24h"
type CleanupSettings struct {
	// timeout, counted from the end of the drain, after which cleanup is forced and a condition says so. Defaults to 5m.
	// +kubebuilder:default="5m"
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}

// PodTemplate overlays the pod of a group.
type PodTemplate struct {
	// metadata holds labels and annotations for the pod. Keys under snakepit.dev/ are reserved.
	// +optional
	Metadata *TemplateMetadata `json:"metadata,omitempty"`

	// spec holds the fields of a pod that a pool may set.
	// +optional
	Spec *PodTemplateSpec `json:"spec,omitempty"`
}

// TemplateMetadata holds labels and annotations for the pod.
// +kubebuilder:validation:XValidation:rule="!has(self.labels) || self.labels.all(k, !k.startsWith('snakepit.dev/'))",message="labels under snakepit.dev/ are reserved; choose another prefix"
// +kubebuilder:validation:XValidation:rule="!has(self.annotations) || self.annotations.all(k, !k.startsWith('snakepit.dev/'))",message="annotations under snakepit.dev/ are reserved; choose another prefix"
type TemplateMetadata struct {
	// labels of the pod.
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Labels map[string]string `json:"labels,omitempty"`

	// annotations of the pod.
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}

// PodTemplateSpec holds the fields of a pod that a pool may set. What is not listed here is the operator's.
// +kubebuilder:validation:XValidation:rule="!has(self.volumes) || self.volumes.all(v, !v.name.startsWith('snakepit-'))",message="volume names that start with snakepit- are reserved; rename the volume"
// +kubebuilder:validation:XValidation:rule="!has(self.containers) || self.containers.all(c, c.name != 'router')",message="the container name router is reserved; rename the container"
// +kubebuilder:validation:XValidation:rule="!has(self.initContainers) || self.initContainers.all(c, c.name != 'router' && c.name != 'worker')",message="the container names router and worker are reserved; rename the init container"
// +kubebuilder:validation:XValidation:rule="(!has(self.containers) || self.containers.all(c, !has(c.ports) || c.ports.all(p, p.containerPort != 50051 && p.containerPort != 9464))) && (!has(self.initContainers) || self.initContainers.all(c, !has(c.ports) || c.ports.all(p, p.containerPort != 50051 && p.containerPort != 9464)))",message="ports 50051 and 9464 belong to the router; choose other ports"
// +kubebuilder:validation:XValidation:rule="!has(self.containers) || self.containers.all(c, c.name != 'worker' || (!has(c.command) && !has(c.args) && !has(c.image) && !has(c.livenessProbe) && !has(c.readinessProbe) && !has(c.startupProbe) && !has(c.lifecycle)))",message="the worker container's image, command, args, lifecycle and probes belong to the operator; use spec.image, spec.adapter and spec.args"
// +kubebuilder:validation:XValidation:rule="(!has(self.containers) || self.containers.all(c, c.name == 'worker' || has(c.image))) && (!has(self.initContainers) || self.initContainers.all(c, has(c.image)))",message="every container of the template but worker needs an image"
// +kubebuilder:validation:XValidation:rule="!has(self.containers) || self.containers.all(c, !has(c.env) || c.env.all(e, !e.name.startsWith('SNAKEPIT_')))",message="environment variables that start with SNAKEPIT_ are reserved; rename the variable"
// +kubebuilder:validation:XValidation:rule="(!has(self.containers) || self.containers.all(c, !has(c.volumeMounts) || c.volumeMounts.all(m, !m.name.startsWith('snakepit-')))) && (!has(self.initContainers) || self.initContainers.all(c, !has(c.volumeMounts) || c.volumeMounts.all(m, !m.name.startsWith('snakepit-'))))",message="volumes that start with snakepit- are the operator's and cannot be mounted by the template; declare a volume of your own"
// +kubebuilder:validation:XValidation:rule="!has(self.containers) || self.containers.all(c, !has(c.volumeMounts) || c.volumeMounts.all(m, !m.mountPath.startsWith('/run/snakepit') && !m.mountPath.startsWith('/home/worker') && !m.mountPath.startsWith('/var/run/secrets/kubernetes.io')))",message="/run/snakepit, /home/worker and /var/run/secrets/kubernetes.io are the operator's mount points; choose another mountPath"
// +kubebuilder:validation:XValidation:rule="(!has(self.containers) || self.containers.all(c, !has(c.securityContext) || ((!has(c.securityContext.privileged) || !c.securityContext.privileged) && (!has(c.securityContext.allowPrivilegeEscalation) || !c.securityContext.allowPrivilegeEscalation) && (!has(c.securityContext.capabilities) || !has(c.securityContext.capabilities.add))))) && (!has(self.initContainers) || self.initContainers.all(c, !has(c.securityContext) || ((!has(c.securityContext.privileged) || !c.securityContext.privileged) && (!has(c.securityContext.allowPrivilegeEscalation) || !c.securityContext.allowPrivilegeEscalation) && (!has(c.securityContext.capabilities) || !has(c.securityContext.capabilities.add)))))",message="containers of a pool run without privileges: remove privileged, allowPrivilegeEscalation and capabilities.add from securityContext"
// +kubebuilder:validation:XValidation:rule="!has(self.securityContext) || ((!has(self.securityContext.runAsNonRoot) || self.securityContext.runAsNonRoot) && (!has(self.securityContext.runAsUser) || self.securityContext.runAsUser > 0))",message="pods of a pool do not run as root: remove runAsNonRoot: false and runAsUser: 0 from securityContext"
type PodTemplateSpec struct {
	// containers: an entry named worker overlays the worker container; others run beside it.
	// +kubebuilder:validation:MaxItems=8
	// +listType=map
	// +listMapKey=name
	// +optional
	Containers []corev1.Container `json:"containers,omitempty"`

	// initContainers run before the router starts.
	// +kubebuilder:validation:MaxItems=8
	// +listType=map
	// +listMapKey=name
	// +optional
	InitContainers []corev1.Container `json:"initContainers,omitempty"`

	// volumes that containers of the template mount. Names that start with snakepit- are reserved.
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=name
	// +optional
	Volumes []corev1.Volume `json:"volumes,omitempty"`

	// nodeSelector chooses nodes by label.
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// affinity of the pod to nodes and other pods.
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`

	// tolerations of the pod.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// topologySpreadConstraints of the pod.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints,omitempty"`

	// serviceAccountName of the pod; the operator makes one for the pool when this is empty.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`

	// imagePullSecrets for the images of the pod.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`

	// priorityClassName of the pod.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	PriorityClassName string `json:"priorityClassName,omitempty"`

	// runtimeClassName of the pod.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	RuntimeClassName *string `json:"runtimeClassName,omitempty"`

	// schedulerName of the scheduler that places the pod.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	SchedulerName string `json:"schedulerName,omitempty"`

	// securityContext of the pod; it may only tighten what the restricted standard asks for.
	// +optional
	SecurityContext *corev1.PodSecurityContext `json:"securityContext,omitempty"`
}
