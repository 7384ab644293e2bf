package resources

import (
	"crypto/sha256"
	"encoding/hex"
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

// lifeLength is how much of the hash of a group's UID is in its pods' names: 20 bits tell the few groups apart that follow each other under one name.
const lifeLength = 5

// PodName is the name of a group's n-th pod. It is the same for every attempt, so that an attempt whose answer was lost makes no second pod.
// It differs between groups of the same name: kubectl drain asks by name for the eviction of a pod until none has it, and would go on with the
// pod of the successor.
func PodName(group *v1alpha1.WorkerGroup, ordinal int) string {
	return fmt.Sprintf("%s-%d", podPrefix(group), ordinal)
}

// PodOrdinal is the number in a pod's name; false when the name is not one of the group's.
func PodOrdinal(group *v1alpha1.WorkerGroup, pod string) (int, bool) {
	suffix, ok := strings.CutPrefix(pod, podPrefix(group)+"-")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(suffix)
	return n, err == nil && n >= 0
}

func podPrefix(group *v1alpha1.WorkerGroup) string {
	sum := sha256.Sum256([]byte(group.UID))
	return group.Name + "-" + hex.EncodeToString(sum[:])[:lifeLength]
}

// ServiceAccountName is the account of the group's pod: the template's, or the one that the operator made for the pool.
func ServiceAccountName(poolName string, settings *v1alpha1.PodSettings) string {
	if t := settings.Template; t != nil && t.Spec != nil && t.Spec.ServiceAccountName != "" {
		return t.Spec.ServiceAccountName
	}
	return poolName + v1alpha1.RouterAccountSuffix
}
