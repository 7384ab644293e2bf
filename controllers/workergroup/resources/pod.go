package resources

import (
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// numericUser is the user and group of every container: any number but 0 serves, and images need not know it.
const numericUser = 65532

// tokenSeconds is the life of the router's API token; the kubelet renews it long before.
const tokenSeconds = 3600

// DefaultDrainTimeout is drain.timeout when it is unset; the same as in the CRD.
const DefaultDrainTimeout = 30 * time.Second

// MakePod returns the pod of a group. The error names what the template asks for and may not have.
func MakePod(group *v1alpha1.WorkerGroup, ordinal int, routerImage string) (*corev1.Pod, error) {
	pod := &corev1.Pod{
		ObjectMeta: podMeta(group, ordinal),
		Spec: corev1.PodSpec{
			ServiceAccountName:            ServiceAccountName(group.Spec.PoolName, &group.Spec.PodSettings),
			AutomountServiceAccountToken:  ptr.To(false),
			EnableServiceLinks:            ptr.To(false),
			RestartPolicy:                 corev1.RestartPolicyAlways,
			TerminationGracePeriodSeconds: ptr.To(GraceSeconds(&group.Spec.PodSettings)),
			SecurityContext:               podSecurity(),
			InitContainers:                []corev1.Container{routerContainer(group, routerImage)},
			Containers:                    []corev1.Container{workerContainer(group)},
			Volumes:                       volumes(),
		},
	}
	if err := overlay(pod, group.Spec.Template); err != nil {
		return nil, err
	}
	return pod, nil
}

func podMeta(group *v1alpha1.WorkerGroup, ordinal int) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: group.Namespace,
		Name:      PodName(group, ordinal),
		Labels: map[string]string{
			"app.kubernetes.io/name":       "snakepit-worker",
			"app.kubernetes.io/instance":   group.Spec.PoolName,
			"app.kubernetes.io/managed-by": "snakepit",
			v1alpha1.LabelPool:             group.Spec.PoolName,
			v1alpha1.LabelPoolUID:          group.Labels[v1alpha1.LabelPoolUID],
			v1alpha1.LabelGroup:            group.Name,
			v1alpha1.LabelGroupUID:         string(group.UID),
			v1alpha1.LabelRevision:         group.Spec.Revision,
		},
		Annotations:     map[string]string{"kubectl.kubernetes.io/default-container": v1alpha1.WorkerContainer},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(group, v1alpha1.GroupVersion.WithKind("WorkerGroup"))},
	}
}

// Marks are the labels and the reference by which a pod is known as the group's. Whoever changes them gets them back; the rest of a pod's
// metadata is the user's.
func Marks(group *v1alpha1.WorkerGroup) *corev1.Pod {
	made := podMeta(group, 0)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: made.Labels, OwnerReferences: made.OwnerReferences}}
}

// Stripped says whether a pod of the group lacks one of its marks. It does not when the group itself lacks its own: the pool restores that first.
func Stripped(group *v1alpha1.WorkerGroup, pod *corev1.Pod) bool {
	if group.Labels[v1alpha1.LabelPoolUID] == "" {
		return false
	}
	marks := Marks(group)
	for key, value := range marks.Labels {
		if pod.Labels[key] != value {
			return true
		}
	}
	return !metav1.IsControlledBy(pod, group)
}

// DrainTimeout is drain.timeout, or its default.
func DrainTimeout(settings *v1alpha1.PodSettings) time.Duration {
	if settings.Drain.Timeout != nil {
		return settings.Drain.Timeout.Duration
	}
	return DefaultDrainTimeout
}

// GraceSeconds is terminationGracePeriodSeconds: the drain and the tail that ends processes and flushes answers.
func GraceSeconds(settings *v1alpha1.PodSettings) int64 {
	seconds := (DrainTimeout(settings) + time.Second - 1) / time.Second
	return int64(seconds) + v1alpha1.CleanupTailSeconds
}

func routerContainer(group *v1alpha1.WorkerGroup, image string) corev1.Container {
	get := func(path string) *corev1.HTTPGetAction {
		return &corev1.HTTPGetAction{Path: path, Port: intstr.FromString(v1alpha1.PortNameAdmin)}
	}
	probe := func(path string, period, failures int32) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: get(path)}, PeriodSeconds: period, FailureThreshold: failures, TimeoutSeconds: 2}
	}
	return corev1.Container{
		Name:            v1alpha1.RouterContainer,
		Image:           image,
		ImagePullPolicy: corev1.PullIfNotPresent,
		RestartPolicy:   ptr.To(corev1.ContainerRestartPolicyAlways),
		Command:         []string{"/router"},
		Args:            []string{"--namespace=" + group.Namespace, "--group=" + group.Name, "--state-dir=" + v1alpha1.RouterStateDir},
		Env:             identity(),
		Ports: []corev1.ContainerPort{
			{Name: v1alpha1.PortNameGRPC, ContainerPort: v1alpha1.PortGRPC, Protocol: corev1.ProtocolTCP},
			{Name: v1alpha1.PortNameAdmin, ContainerPort: v1alpha1.PortAdmin, Protocol: corev1.ProtocolTCP},
		},
		StartupProbe:   probe("/healthz", 1, 60),
		LivenessProbe:  probe("/healthz", 10, 3),
		ReadinessProbe: probe("/readyz", 1, 2),
		Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{
			Command: []string{"/router", "prestop", "--state-dir=" + v1alpha1.RouterStateDir},
		}}},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
		},
		SecurityContext: containerSecurity(),
		VolumeMounts: []corev1.VolumeMount{
			{Name: volumeBridge, MountPath: v1alpha1.BridgeDir},
			{Name: volumeState, MountPath: v1alpha1.RouterStateDir},
			{Name: volumeToken, MountPath: tokenDir, ReadOnly: true},
		},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
}

func workerContainer(group *v1alpha1.WorkerGroup) corev1.Container {
	args := append([]string{group.Spec.Adapter, "--"}, group.Spec.Args...)
	env := append(identity(),
		corev1.EnvVar{Name: v1alpha1.EnvBridge, Value: v1alpha1.BridgeSocket},
		corev1.EnvVar{Name: v1alpha1.EnvDrainTimeout, Value: strconv.FormatInt(GraceSeconds(&group.Spec.PodSettings), 10)},
		corev1.EnvVar{Name: "HOME", Value: v1alpha1.WorkerHome},
		corev1.EnvVar{Name: "TMPDIR", Value: v1alpha1.WorkerHome},
		corev1.EnvVar{Name: "USER", Value: "worker"},
	)
	if slots := group.Spec.Slots; slots > 1 {
		env = append(env, corev1.EnvVar{Name: v1alpha1.EnvSlots, Value: strconv.Itoa(int(slots))})
	}
	return corev1.Container{
		Name:            v1alpha1.WorkerContainer,
		Image:           group.Spec.Image,
		Command:         []string{"python3", "-m", "snakepit.supervisor"},
		Args:            args,
		Env:             env,
		SecurityContext: containerSecurity(),
		VolumeMounts: []corev1.VolumeMount{
			{Name: volumeBridge, MountPath: v1alpha1.BridgeDir, ReadOnly: true},
			{Name: volumeHome, MountPath: v1alpha1.WorkerHome},
			{Name: volumeTmp, MountPath: "/tmp"},
		},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
}

func identity() []corev1.EnvVar {
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
	}
	return []corev1.EnvVar{field(v1alpha1.EnvPodUID, "metadata.uid"), field(v1alpha1.EnvPodName, "metadata.name")}
}

func volumes() []corev1.Volume {
	empty := func(name string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
	}
	token := corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](tokenSeconds)}},
		{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
			Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
		}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
			Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
		}}}},
	}}
	return []corev1.Volume{
		empty(volumeBridge), empty(volumeState), empty(volumeHome), empty(volumeTmp),
		{Name: volumeToken, VolumeSource: corev1.VolumeSource{Projected: &token}},
	}
}

func podSecurity() *corev1.PodSecurityContext {
	return &corev1.PodSecurityContext{
		RunAsNonRoot:   ptr.To(true),
		RunAsUser:      ptr.To[int64](numericUser),
		RunAsGroup:     ptr.To[int64](numericUser),
		FSGroup:        ptr.To[int64](numericUser),
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}

func containerSecurity() *corev1.SecurityContext {
	return &corev1.SecurityContext{
		RunAsNonRoot:             ptr.To(true),
		ReadOnlyRootFilesystem:   ptr.To(true),
		AllowPrivilegeEscalation: ptr.To(false),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}
