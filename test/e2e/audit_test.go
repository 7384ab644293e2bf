package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
	"github.com/snakepit-k8s/snakepit/router/session"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// tally counts the audits of a run (O1) and what they found.
type tally struct{ run, tables, orphans atomic.Int64 }

var audits tally

func (a *tally) report() error {
	const command = "make test-e2e"
	run, tables, orphans := int(a.run.Load()), int(a.tables.Load()), a.orphans.Load()
	return fixture.AppendFigures([]fixture.Figure{
		{ID: "O1", Figure: "audits", Value: float64(run), Unit: "audits", Bound: ">=1", OK: run > 0, Void: run == 0, Runs: run, Command: command},
		{ID: "O1", Figure: "routers' session tables and Services looked into", Value: float64(tables), Unit: "pools", Bound: ">=1", OK: tables > 0, Void: tables == 0, Runs: tables, Command: command},
		{ID: "O1", Figure: "orphans", Value: float64(orphans), Unit: "found", Bound: "<=0", OK: orphans == 0, Void: run == 0, Runs: run, Command: command},
	})
}

// auditAll looks at the whole cluster, when all stories have ended.
func auditAll(ctx context.Context) error {
	audits.run.Add(1)
	err := poll(60*time.Second, func() error { return errors.Join(ownerless(ctx), nodeLeftovers(ctx, "")) })
	if err != nil {
		audits.orphans.Add(1)
		return fmt.Errorf("audit of the whole cluster: %w", err)
	}
	return nil
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
func each(ctx context.Context, list client.ObjectList, visit func(client.Object), options ...client.ListOption) error {
	if err := cluster.List(ctx, list, options...); err != nil {
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
		err := each(s.ctx, list, func(o client.Object) {
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

// audit ends every story (O1): what its pools made is gone, on the API server and on the nodes.
func (s *story) audit() {
	s.t.Helper()
	audits.run.Add(1)
	var pools v1alpha1.WorkerPoolList
	if err := cluster.List(s.ctx, &pools, client.InNamespace(s.namespace)); err == nil {
		for i := range pools.Items {
			s.workerPods(&pools.Items[i])
			s.auditTables(&pools.Items[i])
			_ = cluster.Delete(s.ctx, &pools.Items[i])
		}
	}
	for _, check := range []struct {
		limit time.Duration
		run   func() error
	}{
		{90 * time.Second, s.leftovers},
		{120 * time.Second, func() error { return deleteNamespace(s.ctx, s.namespace) }},
		{20 * time.Second, func() error { return errors.Join(nodeLeftovers(s.ctx, s.namespace), s.mounts()) }},
	} {
		if err := poll(check.limit, check.run); err != nil {
			audits.orphans.Add(1)
			s.t.Errorf("audit: %v", err)
		}
	}
}

// auditTables looks into a pool's tables before it goes; both the router's word and the Service follow within seconds.
func (s *story) auditTables(p *v1alpha1.WorkerPool) {
	s.t.Helper()
	audits.tables.Add(1)
	if err := poll(20*time.Second, func() error { return s.tables(p) }); err != nil {
		audits.orphans.Add(1)
		s.t.Errorf("audit of pool %s: %v", p.Name, err)
	}
}

// tables looks into what routes calls to a pool that lives (O1): the table of its router holds no session but those whose pod and worker live, and
// the Service leads to no pod that is gone. A pool without a Ready router has no table to look into.
func (s *story) tables(p *v1alpha1.WorkerPool) error {
	var pods corev1.PodList
	if err := cluster.List(s.ctx, &pods, client.InNamespace(p.Namespace), client.MatchingLabels{v1alpha1.LabelPool: p.Name}); err != nil {
		return err
	}
	living := map[string]corev1.Pod{}
	for _, pod := range pods.Items {
		living[string(pod.UID)] = pod
	}
	left := []error{deadRoutes(s.ctx, p, living)}
	workers, err := livingWorkers(s.ctx, p)
	if err != nil {
		return err
	}
	for uid, pod := range living {
		if pod.DeletionTimestamp == nil && isReady(pod) {
			left = append(left, s.table(p, pod, workers[uid]))
		}
	}
	return errors.Join(left...)
}

// table asks one router for every session that a story ever named, and how many it holds: so that one more than those is found as well.
func (s *story) table(p *v1alpha1.WorkerPool, pod corev1.Pod, workers map[session.Worker]bool) error {
	var left []error
	held := 0
	for _, name := range answers.names(p.Namespace + "/" + p.Name) {
		r := python.do(s.t, map[string]any{"op": "look", "address": address(pod), "session": name})
		if r.Error != "" {
			return fmt.Errorf("looking for session %s in pod %s: %s: %s", name, pod.Name, r.Error, r.Message)
		}
		if r.Token == "" {
			continue
		}
		held++
		token, err := session.ParseToken(r.Token)
		if err != nil || token.Pod != string(pod.UID) || !workers[token.Worker] {
			left = append(left, fmt.Errorf("the table of pod %s (%s) has session %s at worker %v of pod %s, which is gone (%w)", pod.Name, pod.UID, name, token.Worker, token.Pod, err))
		}
	}
	return errors.Join(append(left, s.says(pod, "snakepit_router_sessions", held))...)
}

// says wants a metric of a pod's router to have a value.
func (s *story) says(pod corev1.Pod, metric string, value int) error {
	r := python.do(s.t, map[string]any{"op": "scrape", "url": fmt.Sprintf("http://%s/metrics", net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(v1alpha1.PortAdmin)))})
	if r.Error != "" {
		return fmt.Errorf("metrics of pod %s: %s: %s", pod.Name, r.Error, r.Message)
	}
	if want := fmt.Sprintf("\n%s %d\n", metric, value); !strings.Contains(decode[string](s.t, r.Value), want) {
		return fmt.Errorf("%s of pod %s is not %d, as is wanted", metric, pod.Name, value)
	}
	return nil
}

// livingWorkers of a pool's groups, by the UID of their pod.
func livingWorkers(ctx context.Context, p *v1alpha1.WorkerPool) (map[string]map[session.Worker]bool, error) {
	all := map[string]map[session.Worker]bool{}
	var wrong error
	err := each(ctx, &v1alpha1.WorkerGroupList{}, func(o client.Object) {
		router := o.(*v1alpha1.WorkerGroup).Status.Router
		if router == nil {
			return
		}
		workers := map[session.Worker]bool{}
		for _, w := range router.Workers {
			if w.Incarnation == "" {
				continue
			}
			nonce, err := strconv.ParseUint(w.Incarnation, 16, 64)
			wrong = errors.Join(wrong, err)
			workers[session.Worker{Slot: uint16(w.Slot), Nonce: nonce}] = true
		}
		all[string(router.PodUID)] = workers
	}, client.InNamespace(p.Namespace), client.MatchingLabels{v1alpha1.LabelPool: p.Name})
	return all, errors.Join(err, wrong)
}

// deadRoutes names the endpoints of a pool's Service that lead to no living pod.
func deadRoutes(ctx context.Context, p *v1alpha1.WorkerPool, living map[string]corev1.Pod) error {
	var left []error
	err := each(ctx, &discoveryv1.EndpointSliceList{}, func(o client.Object) {
		for _, endpoint := range o.(*discoveryv1.EndpointSlice).Endpoints {
			if to := endpoint.TargetRef; to == nil || living[string(to.UID)].UID == "" {
				left = append(left, fmt.Errorf("Service %s leads to %v, which is gone", p.Name, to))
			}
		}
	}, client.InNamespace(p.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: p.Name})
	return errors.Join(append(left, err)...)
}

func isReady(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// ownerless names objects of all namespaces that were made for a pool or a group whose UID is gone.
func ownerless(ctx context.Context) error {
	alive := map[types.UID]bool{}
	for _, owners := range []client.ObjectList{&v1alpha1.WorkerPoolList{}, &v1alpha1.WorkerGroupList{}} {
		if err := each(ctx, owners, func(o client.Object) { alive[o.GetUID()] = true }); err != nil {
			return err
		}
	}
	var left []error
	for kind, list := range ownKinds() {
		err := each(ctx, list, func(o client.Object) {
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

// buildTool builds the local cluster's driver once: running it anew from its source each time would cost the stories most of their processor.
var buildTool = sync.OnceValues(func() (string, error) {
	path := filepath.Join(scratch, "local-cluster")
	out, err := exec.Command("go", "-C", toolFolder, "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the local cluster's driver: %w: %s", err, out)
	}
	return path, nil
})

// toolFolder is where the driver finds the cluster of this checkout.
const toolFolder = "../../hack/local-cluster"

// onNodes asks the local cluster's driver; only it lets the tests look into nodes.
func onNodes(verb ...string) (string, error) {
	tool, err := buildTool()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(tool, verb...)
	cmd.Dir = toolFolder
	out, err := cmd.CombinedOutput()
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

// nodeLeftovers names what is still on the nodes of a namespace whose pods are gone, or of all: processes of pods that no longer exist, and
// routes to Services of the namespace.
func nodeLeftovers(ctx context.Context, namespace string) error {
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
	if err := each(ctx, &corev1.PodList{}, func(o client.Object) { known[string(o.GetUID())] = true }); err != nil {
		return err
	}
	for _, c := range containers {
		if !known[c.PodUID] && (namespace == "" || namespace == c.Namespace) {
			left = append(left, fmt.Errorf("%d processes of pod %s/%s (%s), which is gone, run on", len(c.Processes), c.Namespace, c.Pod, c.PodUID))
		}
	}
	// The map alone routes; chains that nothing leads to stay until kube-proxy's next change.
	routes, err := onNodes("exec", "nft", "list", "map", "ip", "kube-proxy", "service-ips")
	if err != nil {
		return err
	}
	if namespace != "" && strings.Contains(routes, namespace+"/") {
		left = append(left, fmt.Errorf("kube-proxy still has routes to Services of %s", namespace))
	}
	return errors.Join(left...)
}

// mounts names those of the story's pods that are left on the nodes.
func (s *story) mounts() error {
	if clusterIsForeign() {
		return nil
	}
	mounts, err := onNodes("mounts")
	if err != nil {
		return err
	}
	var left []error
	for uid, name := range s.pods {
		if strings.Contains(mounts, string(uid)) {
			left = append(left, fmt.Errorf("mounts of pod %s (%s) are left", name, uid))
		}
	}
	return errors.Join(left...)
}
