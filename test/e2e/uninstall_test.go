package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

const operatorNamespace = "snakepit-system"

// O5: whatever the user says about cascading, a deleted pool takes all of its own with it.
func TestDeletionPolicies(t *testing.T) {
	s := beginBeside(t)
	policies := []metav1.DeletionPropagation{metav1.DeletePropagationOrphan, metav1.DeletePropagationForeground, metav1.DeletePropagationBackground}
	var pools []*v1alpha1.WorkerPool
	for _, policy := range policies {
		pools = append(pools, s.pool(strings.ToLower(string(policy)), workers(1)))
	}
	for _, p := range pools {
		s.ready(p)
	}
	began := time.Now()
	for i, p := range pools {
		s.must(cluster.Delete(s.ctx, p, client.PropagationPolicy(policies[i])))
	}
	for _, p := range pools {
		s.goneItself(p, 60*time.Second)
	}
	s.eventually(30*time.Second, "all that the pools had is gone", s.leftovers)
	s.figure("O5", "delete by orphan, foreground and background until nothing is left", time.Since(began).Seconds(), "s", 60)
}

// O2: the namespace of live pools is deleted while no operator runs: it waits, and the documented line lets it go.
func TestNamespaceDeletedWithoutOperator(t *testing.T) {
	s := begin(t)
	p := s.pool("stuck", workers(1))
	s.ready(p)
	s.scaleOperator(0)
	t.Cleanup(func() { s.scaleOperator(1) })
	s.must(cluster.Delete(s.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}))
	s.eventually(20*time.Second, "the pool is being deleted", func() error {
		if s.get(p).DeletionTimestamp == nil {
			return fmt.Errorf("pool %s is not being deleted", p.Name)
		}
		return nil
	})
	began := time.Now()
	s.wayOut()
	s.must(deleteNamespace(s.ctx, s.namespace))
	s.figure("O2", "namespace of live pools without an operator, the documented line to its end", time.Since(began).Seconds(), "s", 90)
}

// O2: the operator's own namespace is deleted under live pools. It goes, the pools serve on, and a new operator ends them.
func TestOperatorNamespaceDeleted(t *testing.T) {
	s := begin(t)
	p := s.pool("serves", workers(1))
	s.ready(p)
	t.Cleanup(func() { s.script("install") })
	began := time.Now()
	s.must(deleteNamespace(s.ctx, operatorNamespace))
	s.figure("O2", "the operator's own namespace under live pools until it is gone", time.Since(began).Seconds(), "s", 60)
	s.must(cluster.Delete(s.ctx, p))
	s.caller(p).call("add", map[string]any{"a": 1, "b": 1})
	if out, err := s.try("uninstall"); err == nil || !strings.Contains(out, "the operator does not run") || !strings.Contains(out, "make install") {
		t.Errorf("uninstall with a pool and without an operator: %v: %s\nwant it refused, with what to do", err, out)
	}
	s.script("install")
	s.gone(p, 60*time.Second)
}

// O3: uninstall refuses while a pool does not go, and then removes all in the right order.
func TestUninstall(t *testing.T) {
	s := begin(t)
	t.Cleanup(func() { s.script("install") })
	p := s.pool("held", workers(1), func(p *v1alpha1.WorkerPool) { p.Spec.Drain.Timeout = &metav1.Duration{Duration: 10 * time.Minute} })
	s.ready(p)
	c := s.caller(p)
	c.in("open").count(1)
	t.Setenv("UNINSTALL_TIMEOUT", "3")
	if out, err := s.try("uninstall"); err == nil || !strings.Contains(out, "held") || !strings.Contains(out, "the operator stays") {
		t.Fatalf("uninstall with an open session: %v: %s\nwant it refused, and the pool named", err, out)
	}
	c.in("open").do("close")
	t.Setenv("UNINSTALL_TIMEOUT", "90")
	began := time.Now()
	s.script("uninstall")
	s.figure("O3", "uninstall with a live pool", time.Since(began).Seconds(), "s", 90)
	for _, kind := range []string{"crd/workerpools.snakepit.dev", "crd/workergroups.snakepit.dev", "namespace/" + operatorNamespace, "clusterrole/snakepit-operator"} {
		if out, err := s.kubectl("get", kind); err == nil || !strings.Contains(out, "NotFound") {
			t.Errorf("after uninstall: %s: %v %s", kind, err, out)
		}
	}
	var pods corev1.PodList
	s.must(cluster.List(s.ctx, &pods, client.InNamespace(s.namespace)))
	if len(pods.Items) != 0 {
		t.Errorf("after uninstall %d pods are left", len(pods.Items))
	}
	s.script("uninstall") // nothing to do is no error
}

// O3: the CRDs are deleted first: with the operator they go, pools and all; without one the documented line lets them go.
func TestDefinitionsDeletedFirst(t *testing.T) {
	for _, operator := range []int32{1, 0} {
		t.Run(fmt.Sprintf("operators%d", operator), func(t *testing.T) {
			s := begin(t)
			t.Cleanup(func() { s.script("install") })
			p := s.pool("defined", workers(1))
			s.ready(p)
			s.scaleOperator(operator)
			began := time.Now()
			if out, err := s.kubectl("delete", "crd", "workerpools.snakepit.dev", "workergroups.snakepit.dev", "--wait=false"); err != nil {
				t.Fatalf("delete crd: %v: %s", err, out)
			}
			if operator == 0 {
				s.wayOut()
			}
			s.eventually(90*time.Second, "the CRDs and the pods are gone", func() error {
				if out, err := s.kubectl("get", "crd", "workerpools.snakepit.dev", "workergroups.snakepit.dev", "--ignore-not-found", "-o", "name"); err != nil || out != "" {
					return fmt.Errorf("%w: %s", err, out)
				}
				var pods corev1.PodList
				s.must(cluster.List(s.ctx, &pods, client.InNamespace(s.namespace)))
				if len(pods.Items) > 0 {
					return fmt.Errorf("pod %s is left", pods.Items[0].Name)
				}
				return nil
			})
			s.figure("O3", fmt.Sprintf("CRDs deleted first, %d operators, until they and the pods are gone", operator), time.Since(began).Seconds(), "s", 90)
		})
	}
}

// goneItself waits for the pool alone; what it leaves is another question.
func (s *story) goneItself(p *v1alpha1.WorkerPool, limit time.Duration) {
	s.t.Helper()
	s.eventually(limit, "pool "+p.Name+" gone", func() error {
		err := cluster.Get(s.ctx, client.ObjectKeyFromObject(p), p)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("still there: %s", conditions(p.Status.Conditions)))
	})
}

// try runs a target of the Makefile, as a user would.
func (s *story) try(target string) (string, error) {
	out, err := exec.Command("make", "-C", "../..", target).CombinedOutput()
	return string(out), err
}

func (s *story) script(target string) {
	s.t.Helper()
	if out, err := s.try(target); err != nil {
		s.t.Fatalf("make %s: %v: %s", target, err, out)
	}
}

// wayOut runs the very line of docs/how-to/cleanup.md, again until it finds nothing more, as the page says.
func (s *story) wayOut() {
	s.t.Helper()
	page, err := os.ReadFile("../../docs/how-to/cleanup.md")
	s.must(err)
	line := ""
	for _, one := range strings.Split(string(page), "\n") {
		if strings.HasPrefix(one, "    kubectl get wgroup,wpool -A ") {
			line = strings.TrimSpace(one)
		}
	}
	if line == "" {
		s.t.Fatal("docs/how-to/cleanup.md shows no way out")
	}
	folder := filepath.Dir(kubectlPath())
	s.eventually(60*time.Second, "the way out finds nothing more", func() error {
		command := exec.Command("bash", "-c", line)
		command.Env = append(os.Environ(), "PATH="+folder+":"+os.Getenv("PATH"))
		// A pool that is gone between the line's two halves is no failure of it; another run shows.
		out, err := command.CombinedOutput()
		if strings.Contains(string(out), "patched") {
			return fmt.Errorf("it still finds some: %s", out)
		}
		if kinds, gone := s.kubectl("get", "wpool,wgroup", "-A", "-o", "name"); gone == nil && strings.TrimSpace(kinds) != "" {
			return errors.Join(fmt.Errorf("left are %s (the line: %s)", kinds, out), err)
		}
		return nil
	})
}
