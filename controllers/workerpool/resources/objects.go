package resources

import (
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// MakeGroup returns a new group of the pool. Its finalizer is there from the beginning, before its first pod.
func MakeGroup(pool *v1alpha1.WorkerPool, revision string, ordinal int) *v1alpha1.WorkerGroup {
	group := &v1alpha1.WorkerGroup{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "WorkerGroup"},
		ObjectMeta: childMeta(pool, GroupName(pool.Name, revision, ordinal)),
		Spec: v1alpha1.WorkerGroupSpec{
			PoolName:     pool.Name,
			Workers:      pool.Spec.Workers,
			Revision:     revision,
			PodSettings:  *pool.Spec.PodSettings.DeepCopy(),
			LiveSettings: Live(pool),
		},
	}
	group.Spec.Drain.OnDeadline = "" // the pool's word counts, and it may change
	// One that cannot be read is said in the pool's status.
	group.Spec.RecycleRequest, _ = RecycleRequest(pool)
	group.Labels[v1alpha1.LabelRevision] = revision
	group.Finalizers = []string{v1alpha1.Finalizer}
	return group
}

// Live is what a group of the pool follows while it runs. sessions.creation is resolved here. A field that becomes unset is taken from the
// group because each part of its live settings is atomic there (hack/crd-trim): what Create wrote belongs to another entry of managedFields
// than what server-side apply writes, so that leaving out a field of its own would not take it away.
func Live(pool *v1alpha1.WorkerPool) v1alpha1.LiveSettings {
	live := *pool.Spec.LiveSettings.DeepCopy()
	if live.Sessions.Creation == "" {
		live.Sessions.Creation = v1alpha1.SessionCreationExplicit
		if live.Sessions.Affinity == v1alpha1.AffinityHint {
			live.Sessions.Creation = v1alpha1.SessionCreationImplicit
		}
	}
	return live
}

// MakeService returns the pool's address. It selects the one pod that its group names, by a label that only that pod carries.
func MakeService(pool *v1alpha1.WorkerPool) *corev1.Service {
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: childMeta(pool, pool.Name),
		Spec: corev1.ServiceSpec{
			Type:     corev1.ServiceTypeClusterIP,
			Selector: map[string]string{v1alpha1.LabelPoolUID: string(pool.UID), v1alpha1.LabelServing: "true"},
			Ports: []corev1.ServicePort{{
				Name:        v1alpha1.PortNameGRPC,
				AppProtocol: ptr.To("kubernetes.io/h2c"),
				Protocol:    corev1.ProtocolTCP,
				Port:        v1alpha1.PortGRPC,
				TargetPort:  intstr.FromString(v1alpha1.PortNameGRPC),
			}},
		},
	}
}

// MakePodDisruptionBudget refuses the eviction of the pod that serves: the operator drains it and deletes it itself. A number is what works for
// pods whose owner is not one of Kubernetes' own kinds: with anything else every eviction fails. A pod that is not Ready may be evicted. There is
// none for a pool without workers.
func MakePodDisruptionBudget(pool *v1alpha1.WorkerPool) *policyv1.PodDisruptionBudget {
	if pool.Spec.Workers == 0 {
		return nil
	}
	return &policyv1.PodDisruptionBudget{
		TypeMeta:   metav1.TypeMeta{APIVersion: "policy/v1", Kind: "PodDisruptionBudget"},
		ObjectMeta: childMeta(pool, pool.Name),
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable:               ptr.To(intstr.FromInt32(1)),
			Selector:                   &metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelPoolUID: string(pool.UID), v1alpha1.LabelServing: "true"}},
			UnhealthyPodEvictionPolicy: ptr.To(policyv1.AlwaysAllow),
		},
	}
}

// MakeServiceAccount returns the account of the pool's pods; nil when the template names another one.
func MakeServiceAccount(pool *v1alpha1.WorkerPool) *corev1.ServiceAccount {
	if named(pool) != "" {
		return nil
	}
	return &corev1.ServiceAccount{
		TypeMeta:                     metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta:                   childMeta(pool, AccessName(pool.Name)),
		AutomountServiceAccountToken: ptr.To(false),
	}
}

// MakeRole returns what a router may do: follow its own group and write its own part of the group's status.
func MakeRole(pool *v1alpha1.WorkerPool, groups []string) *rbacv1.Role {
	role := &rbacv1.Role{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"},
		ObjectMeta: childMeta(pool, AccessName(pool.Name)),
	}
	// A rule without names would allow every group of the namespace.
	if len(groups) == 0 {
		return role
	}
	rule := func(resource string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{resource}, ResourceNames: groups, Verbs: verbs}
	}
	role.Rules = []rbacv1.PolicyRule{rule("workergroups", "get", "list", "watch"), rule("workergroups/status", "patch")}
	return role
}

// MakeRoleBinding gives the role to whichever account the pods use.
func MakeRoleBinding(pool *v1alpha1.WorkerPool) *rbacv1.RoleBinding {
	account := named(pool)
	if account == "" {
		account = AccessName(pool.Name)
	}
	return &rbacv1.RoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
		ObjectMeta: childMeta(pool, AccessName(pool.Name)),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: AccessName(pool.Name)},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: pool.Namespace, Name: account}},
	}
}

func named(pool *v1alpha1.WorkerPool) string {
	if t := pool.Spec.Template; t != nil && t.Spec != nil {
		return t.Spec.ServiceAccountName
	}
	return ""
}
