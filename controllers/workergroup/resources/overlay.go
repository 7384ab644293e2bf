package resources

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// reservedPrefix of volume names and, below its domain, of labels and annotations.
const (
	reservedVolumePrefix = "snakepit-"
	reservedKeyPrefix    = "snakepit.dev/"
	reservedEnvPrefix    = "SNAKEPIT_"
	// reservedAppArmorPrefix of annotations: the older way to say securityContext.appArmorProfile.
	reservedAppArmorPrefix = "container.apparmor.security.beta.kubernetes.io/"
)

// overlay lays the user's template over the pod. The CRD refuses most of what may not be there; what it lets through (an older CRD, a rule that
// cannot be written in CEL) is refused here, each with its path.
func overlay(pod *corev1.Pod, template *v1alpha1.PodTemplate) error {
	if template == nil {
		return nil
	}
	if m := template.Metadata; m != nil {
		if err := errors.Join(
			mergeKeys(pod.Labels, m.Labels, "template.metadata.labels"),
			mergeKeys(pod.Annotations, m.Annotations, "template.metadata.annotations")); err != nil {
			return err
		}
	}
	spec := template.Spec
	if spec == nil {
		return nil
	}
	if err := refused(spec); err != nil {
		return err
	}
	if err := overlayContainers(pod, spec); err != nil {
		return err
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, spec.Volumes...)
	pod.Spec.NodeSelector = spec.NodeSelector
	pod.Spec.Affinity = spec.Affinity
	pod.Spec.Tolerations = spec.Tolerations
	pod.Spec.TopologySpreadConstraints = spec.TopologySpreadConstraints
	pod.Spec.ImagePullSecrets = spec.ImagePullSecrets
	pod.Spec.PriorityClassName = spec.PriorityClassName
	pod.Spec.RuntimeClassName = spec.RuntimeClassName
	pod.Spec.SchedulerName = spec.SchedulerName
	if spec.SecurityContext != nil {
		merged, err := merge(pod.Spec.SecurityContext, spec.SecurityContext)
		if err != nil {
			return err
		}
		pod.Spec.SecurityContext = merged
	}
	return nil
}

func overlayContainers(pod *corev1.Pod, spec *v1alpha1.PodTemplateSpec) error {
	for _, c := range spec.Containers {
		if c.Name != v1alpha1.WorkerContainer {
			extra, err := restricted(c)
			if err != nil {
				return err
			}
			pod.Spec.Containers = append(pod.Spec.Containers, extra)
			continue
		}
		worker, err := merge(&pod.Spec.Containers[0], &c)
		if err != nil {
			return err
		}
		pod.Spec.Containers[0] = withoutCapabilities(worker)
	}
	before := make([]corev1.Container, 0, len(spec.InitContainers)+1)
	for _, c := range spec.InitContainers {
		first, err := restricted(c)
		if err != nil {
			return err
		}
		before = append(before, first)
	}
	pod.Spec.InitContainers = append(before, pod.Spec.InitContainers...)
	return nil
}

// restricted gives a container of the user's the same restrictions as ours where it says nothing itself.
func restricted(c corev1.Container) (corev1.Container, error) {
	base := &corev1.Container{Name: c.Name, SecurityContext: containerSecurity()}
	merged, err := merge(base, &c)
	if err != nil {
		return c, err
	}
	return withoutCapabilities(merged), nil
}

// withoutCapabilities undoes a list of dropped capabilities that replaced ours: the template may only tighten.
func withoutCapabilities(c *corev1.Container) corev1.Container {
	c.SecurityContext.Capabilities = &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
	return *c
}

// merge lays patch over base by the rules of a strategic merge patch: lists with a merge key (env, volumeMounts, ports) are merged by it.
func merge[T any](base, patch *T) (*T, error) {
	was, err := json.Marshal(base)
	if err != nil {
		return nil, err
	}
	change, err := json.Marshal(patch)
	if err != nil {
		return nil, err
	}
	both, err := strategicpatch.StrategicMergePatch(was, change, *new(T))
	if err != nil {
		return nil, err
	}
	out := new(T)
	return out, json.Unmarshal(both, out)
}

func mergeKeys(into, from map[string]string, path string) error {
	for key, value := range from {
		if strings.HasPrefix(key, reservedAppArmorPrefix) {
			return fmt.Errorf("%s[%s]: use appArmorProfile in a securityContext instead", path, key)
		}
		if strings.HasPrefix(key, reservedKeyPrefix) {
			return fmt.Errorf("%s[%s]: keys under %s are reserved; choose another prefix", path, key, reservedKeyPrefix)
		}
		if _, ours := into[key]; !ours {
			into[key] = value
		}
	}
	return nil
}
