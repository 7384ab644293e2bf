package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// tally counts the audits of a run (O1) and what they found.
type tally struct{ run, orphans int }

var audits tally

func (a tally) report() error {
	const command = "make test-e2e"
	return fixture.AppendFigures([]fixture.Figure{
		{ID: "O1", Figure: "audits", Value: float64(a.run), Unit: "audits", Bound: ">=1", OK: a.run > 0, Void: a.run == 0, Runs: a.run, Command: command},
		{ID: "O1", Figure: "orphans", Value: float64(a.orphans), Unit: "found", Bound: "<=0", OK: a.orphans == 0, Void: a.run == 0, Runs: a.run, Command: command},
	})
}

// figure reports one measured value with its upper bound.
func (s *story) figure(id, name string, value float64, unit string, bound float64) {
	s.t.Helper()
	s.t.Logf("figure: %s %s %.1f %s", id, name, value, unit)
	s.must(fixture.AppendFigures([]fixture.Figure{{
		ID: id, Figure: name, Value: value, Unit: unit, Bound: fmt.Sprintf("<=%g", bound), OK: value <= bound, Runs: 1,
		Command: "make test-e2e", Clock: unit == "s",
	}}))
}

// ownKinds are the kinds of all that an operator makes for a pool.
func ownKinds() map[string]client.ObjectList {
	return map[string]client.ObjectList{
		"WorkerGroup": &v1alpha1.WorkerGroupList{}, "Pod": &corev1.PodList{}, "Service": &corev1.ServiceList{},
		"ServiceAccount": &corev1.ServiceAccountList{}, "Role": &rbacv1.RoleList{}, "RoleBinding": &rbacv1.RoleBindingList{},
		"PodDisruptionBudget": &policyv1.PodDisruptionBudgetList{}, "EndpointSlice": &discoveryv1.EndpointSliceList{},
	}
}

// each calls visit for every object of a list.
func (s *story) each(list client.ObjectList, visit func(client.Object), options ...client.ListOption) error {
	if err := cluster.List(s.ctx, list, options...); err != nil {
		return err
	}
	return meta.EachListItem(list, func(item runtime.Object) error {
		visit(item.(client.Object))
		return nil
	})
}

// leftovers names every object of ours that is still in the namespace.
func (s *story) leftovers() error {
	kinds := ownKinds()
	kinds["WorkerPool"] = &v1alpha1.WorkerPoolList{}
	var left []error
	for kind, list := range kinds {
		err := s.each(list, func(o client.Object) {
			if kind != "ServiceAccount" || o.GetName() != "default" {
				left = append(left, fmt.Errorf("%s %s is left", kind, o.GetName()))
			}
		}, client.InNamespace(s.namespace))
		if err != nil {
			return err
		}
	}
	return errors.Join(left...)
}

// audit ends every story (O1): what the pools made is gone, on the API server and on the nodes; and nowhere in the cluster is anything left
// whose owner is gone.
func (s *story) audit() {
	s.t.Helper()
	audits.run++
	var pools v1alpha1.WorkerPoolList
	if err := cluster.List(s.ctx, &pools, client.InNamespace(s.namespace)); err == nil {
		for i := range pools.Items {
			s.workerPods(&pools.Items[i])
			_ = cluster.Delete(s.ctx, &pools.Items[i])
		}
	}
	for _, check := range []struct {
		limit time.Duration
		run   func() error
	}{
		{90 * time.Second, s.leftovers},
		{120 * time.Second, func() error { return deleteNamespace(s.ctx, s.namespace) }},
		{20 * time.Second, s.ownerless},
		{20 * time.Second, s.nodeLeftovers},
	} {
		if err := poll(check.limit, check.run); err != nil {
			audits.orphans++
			s.t.Errorf("audit: %v", err)
		}
	}
}

// ownerless names objects of all namespaces that were made for a pool or a group whose UID is gone.
func (s *story) ownerless() error {
	alive := map[types.UID]bool{}
	for _, owners := range []client.ObjectList{&v1alpha1.WorkerPoolList{}, &v1alpha1.WorkerGroupList{}} {
		if err := s.each(owners, func(o client.Object) { alive[o.GetUID()] = true }); err != nil {
			return err
		}
	}
	var left []error
	for kind, list := range ownKinds() {
		err := s.each(list, func(o client.Object) {
			owners := []string{o.GetLabels()[v1alpha1.LabelPoolUID], o.GetLabels()[v1alpha1.LabelGroupUID]}
			for _, reference := range o.GetOwnerReferences() {
				if strings.HasPrefix(reference.APIVersion, v1alpha1.GroupVersion.Group+"/") {
					owners = append(owners, string(reference.UID))
				}
			}
			for _, uid := range owners {
				if uid != "" && !alive[types.UID(uid)] {
					left = append(left, fmt.Errorf("%s %s/%s is left of %s, which is gone", kind, o.GetNamespace(), o.GetName(), uid))
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return errors.Join(left...)
}

// onNodes asks the local cluster's driver; only it lets the tests look into nodes.
func onNodes(verb ...string) (string, error) {
	out, err := exec.Command("go", append([]string{"-C", "../../hack/local-cluster", "run", "."}, verb...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("local-cluster %s: %w: %s", strings.Join(verb, " "), err, out)
	}
	return string(out), nil
}

// container is what the local cluster tells about a container that has processes.
type container struct {
	ID        string `json:"id"`
	PodUID    string `json:"podUID"`
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Name      string `json:"name"`
	Processes []struct {
		PID     int    `json:"pid"`
		Command string `json:"command"`
	} `json:"processes"`
}

func nodeContainers() ([]container, error) {
	out, err := onNodes("processes")
	if err != nil {
		return nil, err
	}
	var list []container
	return list, json.Unmarshal([]byte(out), &list)
}

// nodeLeftovers names what is still on the nodes: processes of pods that no longer exist, mounts of the story's pods, and routes of the
// story's Services.
func (s *story) nodeLeftovers() error {
	if clusterIsForeign() {
		return nil
	}
	known := map[string]bool{}
	var left []error
	// First the nodes: a pod that is made meanwhile is known then.
	containers, err := nodeContainers()
	if err != nil {
		return err
	}
	if err := s.each(&corev1.PodList{}, func(o client.Object) { known[string(o.GetUID())] = true }); err != nil {
		return err
	}
	for _, c := range containers {
		if !known[c.PodUID] {
			left = append(left, fmt.Errorf("%d processes of pod %s/%s (%s), which is gone, run on", len(c.Processes), c.Namespace, c.Pod, c.PodUID))
		}
	}
	mounts, err := onNodes("mounts")
	if err != nil {
		return err
	}
	for uid, name := range s.pods {
		if strings.Contains(mounts, string(uid)) {
			left = append(left, fmt.Errorf("mounts of pod %s (%s) are left", name, uid))
		}
	}
	// The map alone routes; chains that nothing leads to stay until kube-proxy's next change.
	routes, err := onNodes("exec", "nft", "list", "map", "ip", "kube-proxy", "service-ips")
	if err != nil {
		return err
	}
	if strings.Contains(routes, s.namespace+"/") {
		left = append(left, fmt.Errorf("kube-proxy still has routes to Services of %s", s.namespace))
	}
	return errors.Join(left...)
}
