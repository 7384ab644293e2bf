package operator

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// rightsRecovery is the bound of R12: from the return of what was missing.
const rightsRecovery = time.Minute

// generatedRole is the ClusterRole of config/rbac, with a name of its own.
func generatedRole(t *testing.T, name string) *rbacv1.ClusterRole {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(fixture.Root(), "config", "rbac", "role.yaml"))
	must(t, err)
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		role := &rbacv1.ClusterRole{}
		if err := yaml.Unmarshal([]byte(strings.TrimPrefix(document, "---\n")), role); err == nil && role.Kind == "ClusterRole" {
			role.Name = name
			return role
		}
	}
	t.Fatal("config/rbac/role.yaml has no ClusterRole")
	return nil
}

// rights is an operator that runs as a user who has the generated role and nothing else.
func rights(t *testing.T) (*scene, *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding) {
	t.Helper()
	s, err := open(t.Context())
	must(t, err)
	user := "operator-of-" + s.namespace
	role := generatedRole(t, user)
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
	}
	must(t, s.client.Create(s.ctx, role))
	must(t, s.client.Create(s.ctx, binding))
	s.config = rest.CopyConfig(s.config)
	s.config.Impersonate = rest.ImpersonationConfig{UserName: user}
	t.Cleanup(func() { must(t, s.stop()) })
	must(t, s.start())
	must(t, s.create(2))
	must(t, s.reach())
	return s, role, binding
}

// stalled waits until the pool's condition tells why it gets no further.
func (s *scene) stalled(reason, says string) error {
	return s.wait(limit, "the condition tells", func() error {
		pool := &v1alpha1.WorkerPool{}
		if err := s.client.Get(s.ctx, client.ObjectKeyFromObject(s.pool), pool); err != nil {
			return err
		}
		c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionStalled)
		if c == nil || c.Reason != reason || !strings.Contains(c.Message, says) {
			return fmt.Errorf("conditions %s", fixture.Conditions(pool.Status.Conditions))
		}
		return nil
	})
}

// TestMissingRights is R12: without its rights the operator says so where it still may, and goes on when they return. Where all are taken it
// may not even say so.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	s, role, binding := rights(t)
	all := role.DeepCopy().Rules
	role.Rules = slices.DeleteFunc(role.Rules, func(r rbacv1.PolicyRule) bool { return slices.Contains(r.Resources, "pods") })
	role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods", "services", "serviceaccounts"}, Verbs: []string{"get", "list", "watch"}})
	must(t, s.client.Update(s.ctx, role))
	must(t, s.losePod())
	must(t, s.stalled(v1alpha1.ReasonPodRejected, "forbidden"))
	role.Rules = all
	must(t, s.client.Update(s.ctx, role))
	slowest, err := s.quiet(2 * limit)
	must(t, err)

	subjects := binding.Subjects
	binding.Subjects = nil
	must(t, s.client.Update(s.ctx, binding))
	must(t, s.losePod())
	must(t, s.scale(3))
	idle(t, 5*time.Second, 5*time.Second, func(int) {})
	if err := s.asAsked(); err == nil {
		t.Fatal("void: the operator acted without rights")
	}
	binding.Subjects = subjects
	must(t, s.client.Update(s.ctx, binding))
	took, err := s.quiet(2 * limit)
	must(t, err)
	tell(t, "R12", 2, clocked(atMost("heals after the rights return", max(slowest, took).Seconds(), "s", rightsRecovery.Seconds())))
	must(t, s.delete())
	must(t, s.reach())
}

// TestQuotaOfNothing is R12: a quota without room for a pod is told, and the pod is made when there is room.
func TestQuotaOfNothing(t *testing.T) {
	t.Parallel()
	s := begin(t)
	must(t, s.create(2))
	must(t, s.reach())
	none := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: none}}
	must(t, s.client.Create(s.ctx, quota))
	// The controller that would write this does not run here.
	quota.Status = corev1.ResourceQuotaStatus{Hard: none, Used: none}
	must(t, s.client.Status().Update(s.ctx, quota))
	must(t, s.losePod())
	must(t, s.stalled(v1alpha1.ReasonPodRejected, "quota"))
	must(t, s.client.Delete(s.ctx, quota))
	took, err := s.quiet(2 * limit)
	must(t, err)
	tell(t, "R12", 1, clocked(atMost("heals after the quota is gone", took.Seconds(), "s", rightsRecovery.Seconds())))
	must(t, s.delete())
	must(t, s.reach())
}
