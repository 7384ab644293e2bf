package upgrade

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// withNewFields is a pool with fields that the old operator's API lacks.
func withNewFields(namespace string) *v1alpha1.WorkerPool {
	pool := fixture.NewPool(namespace, "newer", 2)
	pool.Spec.Drain.OnDeadline = v1alpha1.DrainHold
	pool.Spec.Failover.After = &metav1.Duration{Duration: 2 * time.Minute}
	return pool
}

// newFieldsKept says whether the fields outlived the old operator.
func newFieldsKept(ctx context.Context, t *testing.T, namespace string) {
	t.Helper()
	want, got := withNewFields(namespace), &v1alpha1.WorkerPool{}
	if err := server.Client.Get(ctx, client.ObjectKeyFromObject(want), got); err != nil {
		t.Fatal(err)
	}
	if got.Spec.Drain.OnDeadline != want.Spec.Drain.OnDeadline || *got.Spec.Failover.After != *want.Spec.Failover.After {
		t.Errorf("drain %+v and failover %+v are not those of the pool's user", got.Spec.Drain, got.Spec.Failover)
	}
}

// deletedBy deletes a pool under the running operator, here the old one. What is left then is only what the cluster's garbage collector takes,
// which this API server lacks: the budget, which the old operator does not know, owned by the pool.
func deletedBy(ctx context.Context, t *testing.T, namespace, name string) {
	t.Helper()
	pool := fixture.NewPool(namespace, name, 0)
	if err := server.Client.Get(ctx, client.ObjectKeyFromObject(pool), pool); err != nil {
		t.Fatal(err)
	}
	if err := server.Client.Delete(ctx, pool); err != nil {
		t.Fatal(err)
	}
	fixture.Eventually(t, limit, "the pool gone", func() error {
		err := server.Client.Get(ctx, client.ObjectKeyFromObject(pool), &v1alpha1.WorkerPool{})
		if err == nil {
			err = fmt.Errorf("pool %s is there", name)
		}
		return client.IgnoreNotFound(err)
	})
	left, err := fixture.Leftovers(ctx, server.Client, namespace)
	if err != nil {
		t.Fatal(err)
	}
	left = slices.DeleteFunc(left, func(l string) bool { return !strings.Contains(l, " "+name) })
	if len(left) != 1 || left[0] != "PodDisruptionBudget "+name {
		t.Errorf("of pool %s the old operator left %q, want its PodDisruptionBudget alone", name, left)
	}
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := server.Client.Get(ctx, client.ObjectKeyFromObject(budget), budget); err != nil {
		t.Fatal(err)
	}
	if !metav1.IsControlledBy(budget, pool) {
		t.Errorf("the budget would outlive its pool: its owners are %v", budget.OwnerReferences)
	}
}
