package apiserver

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// With config/policy/accounts a user names in a template only the service accounts that the user may use.
func TestAccountsPolicy(t *testing.T) {
	s := beginAlone(t)
	kubectl(t, "apply", "-k", filepath.Join(fixture.Root(), "config", "policy", "accounts"))
	t.Cleanup(func() { kubectl(t, "delete", "-k", filepath.Join(fixture.Root(), "config", "policy", "accounts")) })
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "author"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"snakepit.dev"}, Resources: []string{"workerpools"}, Verbs: []string{"create", "get", "update", "patch"}},
		{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, ResourceNames: []string{"granted"}, Verbs: []string{"use"}},
	}}
	s.must(server.Client.Create(s.ctx, role))
	s.must(server.Client.Create(s.ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "author"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "author"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.namespace, Name: "author"}},
	}))
	author, err := client.New(account(s.namespace, "author"), client.Options{Scheme: server.Client.Scheme()})
	s.must(err)
	with := func(name, account string) *v1alpha1.WorkerPool {
		pool := fixture.NewPool(s.namespace, name, 1)
		pool.Spec.Template = &v1alpha1.PodTemplate{Spec: &v1alpha1.PodTemplateSpec{ServiceAccountName: account}}
		return pool
	}
	const says = "may not give the service account admin to a pool"
	// Rights and policies count some moments after they were made.
	fixture.Eventually(t, limit, "the policy counts", func() error {
		if err := author.Create(s.ctx, with("early", "admin"), client.DryRunAll); err == nil || !strings.Contains(err.Error(), says) {
			return fmt.Errorf("a pool with an account that is not granted: %w", err)
		}
		return nil
	})
	s.must(author.Create(s.ctx, with("granted", "granted"), client.DryRunAll))
	s.must(author.Create(s.ctx, fixture.NewPool(s.namespace, "none", 1), client.DryRunAll))
	// What somebody with more rights made may be changed, but not to another account.
	pool := with("theirs", "other")
	s.must(server.Client.Create(s.ctx, pool))
	s.must(author.Get(s.ctx, client.ObjectKeyFromObject(pool), pool))
	pool.Spec.Workers = 2
	s.must(author.Update(s.ctx, pool))
	pool.Spec.Template.Spec.ServiceAccountName = "admin"
	refuse(t, author.Update(s.ctx, pool), says)
}
