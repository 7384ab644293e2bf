package resources

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// Volumes of a group's pod. Names that start with snakepit- are reserved for them.
const (
	volumeBridge = "snakepit-bridge"
	volumeState  = "snakepit-state"
	volumeToken  = "snakepit-token"
	volumeHome   = "snakepit-home"
	volumeTmp    = "snakepit-tmp"
)

// tokenDir is where client libraries look for the API token.
const tokenDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// PodName is the name of a group's n-th pod. It is the same for every attempt, so that an attempt whose answer was lost makes no second pod.
func PodName(group string, ordinal int) string {
	return fmt.Sprintf("%s-%d", group, ordinal)
}

// PodOrdinal is the number in a pod's name; false when the name is not one of the group's.
func PodOrdinal(group, pod string) (int, bool) {
	suffix, ok := strings.CutPrefix(pod, group+"-")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(suffix)
	return n, err == nil && n >= 0
}

// ServiceAccountName is the account of the group's pod: the template's, or the one that the operator made for the pool.
func ServiceAccountName(poolName string, settings *v1alpha1.PodSettings) string {
	if t := settings.Template; t != nil && t.Spec != nil && t.Spec.ServiceAccountName != "" {
		return t.Spec.ServiceAccountName
	}
	return poolName + v1alpha1.RouterAccountSuffix
}
