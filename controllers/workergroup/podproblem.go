package workergroup

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// maxQuoted bounds what is quoted of the kubelet and the runtime, in bytes.
const maxQuoted = 256

// stuckReasons are those of a pod that gets no further until somebody acts, though the kubelet tries again. Images and Secrets are not among
// them: others often bring them a moment later.
var stuckReasons = map[string]bool{
	v1alpha1.ReasonWrongArchitecture: true, v1alpha1.ReasonContainerStartFailed: true,
	v1alpha1.ReasonContainerCrashLooping: true, v1alpha1.ReasonOutOfMemory: true,
}

// imageReasons are the kubelet's for an image that is not there.
var imageReasons = map[string]bool{"ErrImagePull": true, "ImagePullBackOff": true, "InvalidImageName": true, "ErrImageNeverPull": true, "ImageInspectError": true, "RegistryUnavailable": true, "SignatureValidationFailed": true}

// pullCauses are words in what the kubelet says about an image, and what they mean with the next step; the first that fits counts. What is
// said beside them (addresses, ports, times) changes with each attempt, so it is not repeated.
var pullCauses = []struct{ words, means string }{
	{"no space left on device", "the disk of its node is full: free space there, or choose another node"},
	{"unauthorized", "the registry refuses access: set imagePullSecrets in spec.template.spec"},
	{"authorization", "it does not exist, or the registry refuses access: check the name, and imagePullSecrets in spec.template.spec"},
	{"403 Forbidden", "the registry refuses access: set imagePullSecrets in spec.template.spec"},
	{"not found", "the registry does not have it: check name and tag, or push it"},
	{"manifest unknown", "the registry does not have it: check name and tag, or push it"},
	{"no such host", "the registry's host name is unknown: check the name"},
	{"connection refused", "the registry does not answer; it is tried again"},
	{"timeout", "the registry does not answer; it is tried again"},
	{"InvalidImageName", "the name is not valid: write it as registry/name:tag"},
	{"ErrImageNeverPull", "it is not on the node, and its imagePullPolicy forbids pulling it"},
	{"", "check its name and imagePullSecrets"},
}

// podProblem says why a pod is not Ready when that will not pass by itself: a reason and a message with the next step; empty when it just
// starts. Served says that workers of this pod have been ready: then the earlier end of a container that runs again explains nothing.
func podProblem(pod *corev1.Pod, served bool) (reason, message string) {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return endedPod(pod)
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && (c.Reason == corev1.PodReasonUnschedulable || c.Reason == corev1.PodReasonSchedulingGated) {
			return v1alpha1.ReasonUnschedulable, fmt.Sprintf("no node fits pod %s: %s Lower the requests or widen the node selection in spec.template, or add nodes", pod.Name, sentence(c.Message))
		}
	}
	for _, c := range pod.Status.InitContainerStatuses {
		if t := c.State.Terminated; t != nil && t.ExitCode == 0 {
			continue
		}
		if reason, message = containerProblem(pod, &c, served); reason != "" {
			return reason, message
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		if reason, message = containerProblem(pod, &c, served); reason != "" {
			return reason, message
		}
	}
	return "", ""
}

func endedPod(pod *corev1.Pod) (reason, message string) {
	why := orElse(pod.Status.Reason, string(pod.Status.Phase))
	if pod.Status.Message != "" {
		why += ": " + sentence(quoted(pod.Status.Message))
	}
	if pod.Status.Reason != "Evicted" {
		return v1alpha1.ReasonPodFailed, fmt.Sprintf("pod %s ended on node %s: %s It is replaced (kubectl describe pod %s)", pod.Name, orElse(pod.Spec.NodeName, "unknown"), why, pod.Name)
	}
	cure := "set requests for memory and ephemeral-storage in spec.template, or choose a larger node"
	if text := pod.Status.Message; strings.Contains(text, "storage") || strings.Contains(text, "Disk") || strings.Contains(text, "EmptyDir") {
		cure = "write less, mount a volume for it, or raise ephemeral-storage in spec.template"
	}
	return v1alpha1.ReasonPodEvicted, fmt.Sprintf("pod %s was evicted from node %s: %s It is replaced; %s", pod.Name, pod.Spec.NodeName, sentence(quoted(pod.Status.Message)), cure)
}

func containerProblem(pod *corev1.Pod, c *corev1.ContainerStatus, served bool) (reason, message string) {
	ended := c.LastTerminationState.Terminated
	if c.State.Terminated != nil {
		ended = c.State.Terminated
	}
	w := c.State.Waiting
	switch {
	case w != nil && imageReasons[w.Reason]:
		return imageProblem(pod, c, w)
	case w != nil && w.Reason == "CreateContainerConfigError":
		return configProblem(pod, c, w.Message)
	case w != nil && (w.Reason == "CreateContainerError" || w.Reason == "RunContainerError" || w.Reason == "PostStartHookError"):
		return startProblem(pod, c, w.Message)
	case ended == nil || (c.State.Running != nil && served):
		return "", ""
	case strings.Contains(ended.Message, "exec format error"):
		return wrongArchitecture(pod, c)
	case ended.Reason == "StartError" || ended.Reason == "ContainerCannotRun":
		return startProblem(pod, c, ended.Message)
	case c.RestartCount < 2 && (w == nil || w.Reason != "CrashLoopBackOff"):
		return "", ""
	case ended.Reason == "OOMKilled":
		return v1alpha1.ReasonOutOfMemory, fmt.Sprintf("container %s of pod %s reaches its memory limit%s and is killed, again and again: raise the limit in spec.template, lower spec.workers, or set recycle.maxMemory (kubectl describe pod %s)",
			c.Name, pod.Name, memoryLimit(pod, c.Name), pod.Name)
	}
	return v1alpha1.ReasonContainerCrashLooping, fmt.Sprintf("container %s of pod %s ends again and again, last with exit code %d, %s: read its last words (kubectl logs %s -c %s --previous)",
		c.Name, pod.Name, ended.ExitCode, ended.Reason, pod.Name, c.Name)
}

func imageProblem(pod *corev1.Pod, c *corev1.ContainerStatus, w *corev1.ContainerStateWaiting) (reason, message string) {
	if strings.Contains(w.Message, "no match for platform") {
		return wrongArchitecture(pod, c)
	}
	said, means := w.Reason+" "+w.Message, ""
	for _, cause := range pullCauses {
		if strings.Contains(said, cause.words) {
			means = cause.means
			break
		}
	}
	return v1alpha1.ReasonImagePullFailed, fmt.Sprintf("image %s of container %s in pod %s cannot be pulled: %s (kubectl describe pod %s)", c.Image, c.Name, pod.Name, means, pod.Name)
}

func wrongArchitecture(pod *corev1.Pod, c *corev1.ContainerStatus) (reason, message string) {
	return v1alpha1.ReasonWrongArchitecture, fmt.Sprintf("image %s of container %s in pod %s is not built for the processor of node %s: build it for that platform, or choose nodes by kubernetes.io/arch in spec.template.spec.nodeSelector",
		c.Image, c.Name, pod.Name, pod.Spec.NodeName)
}

func configProblem(pod *corev1.Pod, c *corev1.ContainerStatus, said string) (reason, message string) {
	cure := "make it, or correct spec.template; it is tried again"
	if strings.Contains(said, "runAsNonRoot") {
		cure = "set a number other than 0 as securityContext.runAsUser in spec.template, or as USER of the image"
	}
	return v1alpha1.ReasonContainerConfigInvalid, fmt.Sprintf("container %s of pod %s cannot be made: %s %s (kubectl describe pod %s)", c.Name, pod.Name, sentence(quoted(said)), cure, pod.Name)
}

func startProblem(pod *corev1.Pod, c *corev1.ContainerStatus, said string) (reason, message string) {
	cure := "the message above is the container runtime's; it is tried again"
	switch {
	case strings.Contains(said, "no space left on device"):
		cure = "the disk of node " + pod.Spec.NodeName + " is full: free space there, or choose another node"
	case strings.Contains(said, "exec format error"):
		return wrongArchitecture(pod, c)
	case strings.Contains(said, "executable file not found") || strings.Contains(said, "no such file or directory"):
		cure = "the image must hold python3 on its PATH and the snakepit package"
	}
	return v1alpha1.ReasonContainerStartFailed, fmt.Sprintf("container %s of pod %s cannot start: %s %s (kubectl describe pod %s)", c.Name, pod.Name, sentence(quoted(said)), cure, pod.Name)
}

// memoryLimit is the container's, with a blank before it; empty when it has none.
func memoryLimit(pod *corev1.Pod, name string) string {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			if limit, ok := c.Resources.Limits[corev1.ResourceMemory]; ok && c.Name == name {
				return " of " + limit.String()
			}
		}
	}
	return ""
}

// quoted is the end of a long text: the runtime's messages have the cause there.
func quoted(text string) string {
	text = strings.TrimSpace(text)
	if len(text) > maxQuoted {
		text = "…" + strings.ToValidUTF8(text[len(text)-maxQuoted:], "")
	}
	return text
}

// sentence ends with a full stop, so that another can follow.
func sentence(text string) string {
	if text = strings.TrimSpace(text); text == "" || strings.HasSuffix(text, ".") {
		return text
	}
	return text + "."
}

// routerStarted says whether the router's container runs.
func routerStarted(pod *corev1.Pod) bool {
	for _, c := range pod.Status.InitContainerStatuses {
		if c.Name == v1alpha1.RouterContainer {
			return c.State.Running != nil
		}
	}
	return false
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}
