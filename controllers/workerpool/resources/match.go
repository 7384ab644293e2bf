package resources

import (
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// The functions below say whether what exists already is what should exist; then nothing is written. What the API server or others add
// (cluster IPs, labels, annotations) is not ours to compare.

// GroupMatches compares what may change during a group's life. Its pod settings may not: they are its revision.
func GroupMatches(want, have *v1alpha1.WorkerGroup) bool {
	return metaMatches(want, have) &&
		want.Spec.Workers == have.Spec.Workers && want.Spec.PoolName == have.Spec.PoolName && want.Spec.Revision == have.Spec.Revision &&
		equality.Semantic.DeepEqual(want.Spec.RecycleRequest, have.Spec.RecycleRequest) &&
		equality.Semantic.DeepEqual(want.Spec.LiveSettings, have.Spec.LiveSettings)
}

// ServiceMatches compares type, selector and ports.
func ServiceMatches(want, have *corev1.Service) bool {
	if !metaMatches(want, have) || len(have.Spec.Ports) != len(want.Spec.Ports) {
		return false
	}
	ports := make([]corev1.ServicePort, len(have.Spec.Ports))
	for i, p := range have.Spec.Ports {
		p.NodePort = 0
		ports[i] = p
	}
	return have.Spec.Type == want.Spec.Type &&
		equality.Semantic.DeepEqual(want.Spec.Selector, have.Spec.Selector) &&
		equality.Semantic.DeepEqual(want.Spec.Ports, ports)
}

// ServiceAdditions is a merge patch that takes away what others added to ports and selector; nil when they added nothing. Two ports of one
// name, theirs and ours, would be refused.
func ServiceAdditions(want, have *corev1.Service) map[string]any {
	selector, added := map[string]any{}, len(have.Spec.Ports) > len(want.Spec.Ports)
	for i, p := range have.Spec.Ports {
		added = added || i >= len(want.Spec.Ports) || want.Spec.Ports[i].Port != p.Port || want.Spec.Ports[i].Protocol != p.Protocol
	}
	for key := range have.Spec.Selector {
		if _, ours := want.Spec.Selector[key]; !ours {
			selector[key], added = nil, true
		}
	}
	if !added {
		return nil
	}
	return map[string]any{"spec": map[string]any{"selector": selector, "ports": want.Spec.Ports}}
}

// PodDisruptionBudgetMatches compares how many pods must stay, which, and what is allowed of those that are not Ready.
func PodDisruptionBudgetMatches(want, have *policyv1.PodDisruptionBudget) bool {
	return metaMatches(want, have) && equality.Semantic.DeepEqual(want.Spec, have.Spec)
}

// ServiceAccountMatches compares whether tokens are mounted.
func ServiceAccountMatches(want, have *corev1.ServiceAccount) bool {
	return metaMatches(want, have) && equality.Semantic.DeepEqual(want.AutomountServiceAccountToken, have.AutomountServiceAccountToken)
}

// RoleMatches compares the rules.
func RoleMatches(want, have *rbacv1.Role) bool {
	return metaMatches(want, have) && equality.Semantic.DeepEqual(want.Rules, have.Rules)
}

// RoleBindingMatches compares who has the role.
func RoleBindingMatches(want, have *rbacv1.RoleBinding) bool {
	return metaMatches(want, have) && equality.Semantic.DeepEqual(want.Subjects, have.Subjects)
}

func metaMatches(want, have metav1.Object) bool {
	labels := have.GetLabels()
	for key, value := range want.GetLabels() {
		if labels[key] != value {
			return false
		}
	}
	for _, owner := range want.GetOwnerReferences() {
		found := false
		for _, o := range have.GetOwnerReferences() {
			found = found || equality.Semantic.DeepEqual(owner, o)
		}
		if !found {
			return false
		}
	}
	return true
}
