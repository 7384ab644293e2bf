package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
)

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
