package operator

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/rights"
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

// accused is an operator that runs as a user who has the generated role and nothing else, and what watches over its rights.
type accused struct {
	*scene
	role    *rbacv1.ClusterRole
	binding *rbacv1.ClusterRoleBinding
	watch   *rights.Watch
	metrics *prometheus.Registry
	// said are the messages of the watch, a line each.
	said chan string
}

func accuse(t *testing.T) *accused {
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
	a := &accused{scene: s, role: role, binding: binding, metrics: prometheus.NewRegistry(), said: make(chan string, 100)}
	log := funcr.New(func(_, text string) { a.said <- text }, funcr.Options{})
	a.watch, err = rights.Over(s.config, log, rights.NewMetric(a.metrics))
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { a.watch.Run(ctx) })
	t.Cleanup(func() {
		must(t, s.stop())
		stop()
		running.Wait()
	})
	must(t, s.start())
	must(t, s.create(2))
	must(t, s.reach())
	return a
}

// missing is what the metric tells, and the alert SnakepitRightsMissing asks for.
func (a *accused) missing() ([]string, error) {
	families, err := a.metrics.Gather()
	if err != nil {
		return nil, err
	}
	var all []string
	for _, family := range families {
		for _, m := range family.Metric {
			values := map[string]string{}
			for _, l := range m.Label {
				values[l.GetName()] = l.GetValue()
			}
			all = append(all, values["verb"]+" "+values["resource"])
		}
	}
	return all, nil
}

// lacks waits until metric and readiness tell of these rights; of none when the operator has all of them.
func (a *accused) lacks(want ...string) error {
	return a.wait(limit, "metric and readiness tell", func() error {
		got, err := a.missing()
		if err != nil {
			return err
		}
		ready := a.watch.Ready(nil)
		if len(want) > 0 && ready == nil {
			return fmt.Errorf("it is Ready; missing: %v", got)
		}
		if len(want) == 0 && (ready != nil || len(got) > 0) {
			return fmt.Errorf("missing: %v; readiness: %w", got, ready)
		}
		for _, right := range want {
			if !slices.Contains(got, right) || !strings.Contains(ready.Error(), right) {
				return fmt.Errorf("%s is not among the missing: %v; readiness: %w", right, got, ready)
			}
		}
		return nil
	})
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

// TestMissingRights is R12: without its rights the operator says so where it still may, and goes on when they return. Where all are taken, the
// status may not be written: metric, readiness and log tell.
func TestMissingRights(t *testing.T) {
	t.Parallel()
	s := accuse(t)
	role, binding := s.role, s.binding
	must(t, s.lacks())
	all := role.DeepCopy().Rules
	role.Rules = slices.DeleteFunc(role.Rules, func(r rbacv1.PolicyRule) bool { return slices.Contains(r.Resources, "pods") })
	role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods", "services", "serviceaccounts"}, Verbs: []string{"get", "list", "watch"}})
	must(t, s.client.Update(s.ctx, role))
	must(t, s.losePod())
	must(t, s.stalled(v1alpha1.ReasonPodRejected, "forbidden"))
	must(t, s.lacks("create pods"))
	role.Rules = all
	must(t, s.client.Update(s.ctx, role))
	slowest, err := s.quiet(2 * limit)
	must(t, err)
	must(t, s.lacks())

	subjects := binding.Subjects
	binding.Subjects = nil
	must(t, s.client.Update(s.ctx, binding))
	since := time.Now()
	must(t, s.losePod())
	must(t, s.scale(3))
	// How far the group gets before it is refused, to read its pod or to make another, is chance; the pool has its status to write.
	must(t, s.lacks("patch workerpools.snakepit.dev/status"))
	told := time.Since(since)
	// Watches that were open go on; one that ends is refused. Both kinds of right are found missing, and told once.
	if s.wire.Expire("workerpools") == 0 {
		t.Fatal("void: no watch ended")
	}
	must(t, s.lacks("patch workerpools.snakepit.dev/status", "list workerpools.snakepit.dev"))
	if err := s.asAsked(); err == nil {
		t.Fatal("void: the operator acted without rights")
	}
	binding.Subjects = subjects
	must(t, s.client.Update(s.ctx, binding))
	took, err := s.quiet(2 * limit)
	must(t, err)
	must(t, s.lacks())
	tell(t, "R12", 2, clocked(atMost("heals after the rights return", max(slowest, took).Seconds(), "s", rightsRecovery.Seconds())),
		clocked(atMost("told after all rights are taken", told.Seconds(), "s", rightsRecovery.Seconds())))
	must(t, s.delete())
	must(t, s.reach())
	s.saidOnce(t)
}

// saidOnce checks the log: the right to write the status was missing once, and all rights came back twice.
func (a *accused) saidOnce(t *testing.T) {
	t.Helper()
	must(t, a.stop())
	var lost, back int
	for len(a.said) > 0 {
		line := <-a.said
		switch {
		case strings.Contains(line, "lacks rights"):
			lost += strings.Count(line, "patch workerpools.snakepit.dev/status")
			if !strings.Contains(line, "kubectl apply") {
				t.Errorf("no cure in %s", line)
			}
		case strings.Contains(line, "has its rights again"):
			back++
		}
	}
	if lost != 1 || back != 2 {
		t.Errorf("the log told %d times that the status may not be written, and %d times that all rights are back; want 1 and 2", lost, back)
	}
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
