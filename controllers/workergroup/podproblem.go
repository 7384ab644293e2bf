package workergroup

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// Reasons that the kubelet gives for a container that waits, by what a user can do about them.
var (
	imageReasons  = map[string]bool{"ErrImagePull": true, "ImagePullBackOff": true, "InvalidImageName": true, "ErrImageNeverPull": true, "ImageInspectError": true, "RegistryUnavailable": true}
	configReasons = map[string]bool{"CreateContainerConfigError": true, "CreateContainerError": true, "RunContainerError": true}
)

// podProblem says why a pod is not Ready when that will not pass by itself: a reason and a message with the next step; empty when it just starts.
func podProblem(pod *corev1.Pod) (reason, message string) {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return v1alpha1.ReasonPodFailed, fmt.Sprintf("pod %s ended: %s %s (kubectl describe pod %s); it is replaced", pod.Name, orElse(pod.Status.Reason, string(pod.Status.Phase)), pod.Status.Message, pod.Name)
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return v1alpha1.ReasonUnschedulable, fmt.Sprintf("no node fits pod %s: %s", pod.Name, c.Message)
		}
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, c := range list {
			if c.State.Waiting == nil {
				continue
			}
			switch w := c.State.Waiting; {
			case imageReasons[w.Reason]:
				return v1alpha1.ReasonImagePullFailed, fmt.Sprintf("image %s of container %s in pod %s cannot be pulled; check its name and imagePullSecrets (kubectl describe pod %s)", c.Image, c.Name, pod.Name, pod.Name)
			case configReasons[w.Reason]:
				return v1alpha1.ReasonPodFailed, fmt.Sprintf("container %s of pod %s cannot start: %s %s", c.Name, pod.Name, w.Reason, w.Message)
			case w.Reason == "CrashLoopBackOff":
				return v1alpha1.ReasonPodFailed, fmt.Sprintf("container %s of pod %s ends again and again%s (kubectl logs %s -c %s --previous)", c.Name, pod.Name, lastExit(&c), pod.Name, c.Name)
			}
		}
	}
	return "", ""
}

func lastExit(c *corev1.ContainerStatus) string {
	t := c.LastTerminationState.Terminated
	if t == nil {
		return ""
	}
	return fmt.Sprintf(", last with exit code %d, %s", t.ExitCode, t.Reason)
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
