package resources

import (
	"fmt"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// GroupName is the name of the n-th group of a revision. It is the same for every attempt, so that an attempt whose answer was lost makes no second group.
func GroupName(pool, revision string, ordinal int) string {
	return fmt.Sprintf("%s-%s-%d", pool, revision, ordinal)
}

// GroupOrdinal is the number in a group's name; false when the name is not one of this pool and revision.
func GroupOrdinal(pool, revision, group string) (int, bool) {
	suffix, ok := strings.CutPrefix(group, pool+"-"+revision+"-")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(suffix)
	return n, err == nil && n >= 0
}

// AccessName is the name of the pool's ServiceAccount, Role and RoleBinding.
func AccessName(pool string) string { return pool + v1alpha1.RouterAccountSuffix }

// Endpoint is the address of the pool's Service inside the cluster.
func Endpoint(pool *v1alpha1.WorkerPool) string {
	return fmt.Sprintf("%s.%s.svc:%d", pool.Name, pool.Namespace, v1alpha1.PortGRPC)
}

// Selector is status.selector: valid, and matched by no pod, because an autoscaler on CPU would count pods and not workers.
func Selector(pool *v1alpha1.WorkerPool) string {
	return v1alpha1.LabelPool + "=" + pool.Name + "," + v1alpha1.LabelScaleBy + "=" + v1alpha1.ScaleByExternal
}

func childMeta(pool *v1alpha1.WorkerPool, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: pool.Namespace,
		Name:      name,
		Labels: map[string]string{
			"app.kubernetes.io/name":       "snakepit-worker",
			"app.kubernetes.io/instance":   pool.Name,
			"app.kubernetes.io/managed-by": "snakepit",
			v1alpha1.LabelPool:             pool.Name,
			v1alpha1.LabelPoolUID:          string(pool.UID),
		},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pool, v1alpha1.GroupVersion.WithKind("WorkerPool"))},
	}
}
