package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
)

// refusalLog notes what the API server does not allow.
type refusalLog struct {
	mutex sync.Mutex
	seen  []string
}

func (f *refusalLog) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(r)
		// A policy refuses with 422, missing rights with 403.
		if err == nil && (response.StatusCode == http.StatusForbidden || response.StatusCode == http.StatusUnprocessableEntity) {
			f.mutex.Lock()
			defer f.mutex.Unlock()
			f.seen = append(f.seen, fmt.Sprintf("%d %s %s", response.StatusCode, r.Method, r.URL.Path))
		}
		return response, err
	})
}

func (f *refusalLog) list() []string {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return f.seen
}

// account is a client configuration of a ServiceAccount, with its rights and no others.
func account(namespace, name string) *rest.Config {
	config := rest.CopyConfig(server.Config)
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + namespace + ":" + name,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
	}
	return config
}

// as runs the operator with an account's rights on a kubelet of its own, and notes what it is refused.
func as(t *testing.T, namespace string, config *rest.Config, options fixture.OperatorOptions) (*scene, *refusalLog) {
	t.Helper()
	s, refused := &scene{t: t, ctx: t.Context(), namespace: namespace}, &refusalLog{}
	kubelet, err := standin.StartKubelet(server.Config, namespace)
	s.must(err)
	t.Cleanup(func() {
		if err := kubelet.Stop(); err != nil {
			t.Errorf("kubelet: %v", err)
		}
	})
	options.Namespace, options.WrapTransport = namespace, refused.wrap
	s.operator, err = fixture.StartOperator(config, options)
	s.must(err)
	t.Cleanup(s.stop)
	return s, refused
}

// life is a pool's: made, scaled, its pod replaced by another image, its serving label taken, deleted.
func (s *scene) life(name string) {
	s.t.Helper()
	pool := s.pool(name, 2)
	s.ready(pool)
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.Workers = 3 })
	s.ready(pool)
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.Image = "registry.example/works:2" })
	s.ready(pool)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}}
	fixture.Change(s.t, server.Client, limit, service, func(o *corev1.Service) { o.Spec.Selector["x"] = "y" })
	fixture.Eventually(s.t, limit, "the Service's selector is restored", func() error {
		if err := s.get(service); err != nil || service.Spec.Selector["x"] == "" {
			return err
		}
		return errors.New("still changed")
	})
	s.must(server.Client.Delete(s.ctx, pool))
	s.gone(pool)
}

// In one namespace, with the Role of config/namespaced and no other right, a pool has its whole life.
func TestNamespacedInstall(t *testing.T) {
	t.Parallel()
	namespace, err := server.Namespace(t.Context(), "namespaced")
	if err != nil {
		t.Fatal(err)
	}
	text := kubectl(t, "kustomize", filepath.Join(fixture.Root(), "config", "namespaced"))
	for _, kind := range []string{"ClusterRole", "kind: Namespace", "- nodes", "--metrics-bind-address=:"} {
		if strings.Contains(text, kind) {
			t.Errorf("config/namespaced has %q", kind)
		}
	}
	for _, flag := range []string{"--namespaces=$(NAMESPACE)", "--watch-nodes=false", "--metrics-bind-address=0"} {
		if !strings.Contains(text, flag) {
			t.Errorf("config/namespaced lacks %q", flag)
		}
	}
	file := filepath.Join(t.TempDir(), "namespaced.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "snakepit-system", namespace)), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "apply", "-f", file)
	s, refused := as(t, namespace, account(namespace, "snakepit-operator"), fixture.OperatorOptions{IgnoreNodes: true})
	s.life("single")
	if seen := refused.list(); len(seen) > 0 {
		t.Errorf("refused: %s", strings.Join(seen, "\n"))
	}
	other, err := client.New(account(namespace, "snakepit-operator"), client.Options{Scheme: server.Client.Scheme()})
	s.must(err)
	if err := other.List(s.ctx, &v1alpha1.WorkerPoolList{}, client.InNamespace("default")); !apierrors.IsForbidden(err) {
		t.Errorf("it sees another namespace: %v", err)
	}
}

// The NetworkPolicies are good manifests; no plugin enforces them here.
func TestNetworkPolicies(t *testing.T) {
	policies := filepath.Join(fixture.Root(), "config", "network-policy")
	kubectl(t, "apply", "-f", filepath.Join(fixture.Root(), "config", "manager", "namespace.yaml"))
	for _, path := range []string{policies, filepath.Join(policies, "pools")} {
		if out := kubectl(t, "apply", "--dry-run=server", "--validate=strict", "-k", path); !strings.Contains(out, "created") {
			t.Errorf("%s: %s", path, out)
		}
	}
}

// The account of config/default has a pool's whole life under config/policy, and forges nothing.
func TestOperatorPolicy(t *testing.T) {
	t.Parallel()
	namespace, err := server.Namespace(t.Context(), "policy")
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(fixture.Root(), "config")
	kubectl(t, "apply", "-f", filepath.Join(config, "manager", "namespace.yaml"))
	for _, part := range []string{"rbac", "policy"} {
		kubectl(t, "apply", "-k", filepath.Join(config, part))
	}
	operator := account("snakepit-system", "snakepit-operator")
	thief, err := client.New(operator, client.Options{Scheme: server.Client.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	// A policy counts some moments after it was made.
	fixture.Eventually(t, limit, "the policies count", func() error {
		role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "early"}}
		if err := thief.Create(t.Context(), role, client.DryRunAll); !apierrors.IsInvalid(err) {
			return fmt.Errorf("a forged role: %w", err)
		}
		return nil
	})
	s, refused := as(t, namespace, operator, fixture.OperatorOptions{})
	s.life("honest")
	if seen := refused.list(); len(seen) > 0 {
		t.Errorf("the operator's own life was refused: %s", strings.Join(seen, "\n"))
	}
	pool := s.pool("model", 1, func(p *v1alpha1.WorkerPool) { p.Spec.Drain.Timeout = &metav1.Duration{Duration: time.Second} })
	s.ready(pool)
	t.Run("pods", func(t *testing.T) { forgePods(t, thief, s.onlyPod(pool)) })
	t.Run("others", func(t *testing.T) { forgeOthers(t, thief, pool) })
	s.must(server.Client.Delete(s.ctx, pool))
	s.gone(pool)
}

// refuse wants a policy's message; a missing right would prove nothing about the policy.
func refuse(t *testing.T, err error, says string) {
	t.Helper()
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v\nwant it refused with %q", err, says)
	}
}

func forgePods(t *testing.T, thief client.Client, model corev1.Pod) {
	fresh := func() *corev1.Pod {
		pod := model.DeepCopy()
		pod.ObjectMeta = metav1.ObjectMeta{Namespace: model.Namespace, Name: "forged", Labels: model.Labels, OwnerReferences: model.OwnerReferences}
		pod.Spec.NodeName, pod.Status = "", corev1.PodStatus{}
		return pod
	}
	if err := thief.Create(t.Context(), fresh(), client.DryRunAll); err != nil {
		t.Fatalf("an honest copy is refused, so that nothing below says anything: %v", err)
	}
	worker := func(p *corev1.Pod) *corev1.Container { return &p.Spec.Containers[0] }
	for says, edit := range map[string]func(*corev1.Pod){
		"that a WorkerGroup controls":       func(p *corev1.Pod) { p.OwnerReferences = nil },
		"its own or the default account":    func(p *corev1.Pod) { p.Spec.ServiceAccountName = "default" },
		"automountServiceAccountToken":      func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = ptr.To(true) },
		"use no host namespace":             func(p *corev1.Pod) { p.Spec.HostPID = true },
		"go through the scheduler":          func(p *corev1.Pod) { p.Spec.NodeName = "node" },
		"mount no hostPath":                 func(p *corev1.Pod) { hostPath(p) },
		"in the volume snakepit-token":      func(p *corev1.Pod) { token(p) },
		"only the container router mounts":  func(p *corev1.Pod) { mount(worker(p), "snakepit-token") },
		"take no port of the node":          func(p *corev1.Pod) { worker(p).Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}} },
		"read-only root file system":        func(p *corev1.Pod) { worker(p).SecurityContext.ReadOnlyRootFilesystem = nil },
		"are not privileged":                func(p *corev1.Pod) { worker(p).SecurityContext = nil },
		"drop ALL capabilities":             func(p *corev1.Pod) { worker(p).SecurityContext.Capabilities = nil },
		"have a seccomp profile":            func(p *corev1.Pod) { worker(p).SecurityContext.SeccompProfile = nil },
		"exactly one container router":      func(p *corev1.Pod) { p.Spec.InitContainers[0].Command = []string{"/bin/sh"} },
		"containers of the operator":        func(p *corev1.Pod) { worker(p).SecurityContext.RunAsUser = ptr.To[int64](0) },
		"automountServiceAccountToken: fal": func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = nil },
	} {
		pod := fresh()
		edit(pod)
		refuse(t, thief.Create(t.Context(), pod, client.DryRunAll), says)
	}
	change, base := model.DeepCopy(), model.DeepCopy()
	change.Spec.Containers[0].Image = "registry.example/evil:1"
	refuse(t, thief.Patch(t.Context(), change, client.StrategicMergeFrom(base), client.DryRunAll), "never what runs in them")
	// The same pod by somebody else is none of the policy's business.
	pod := fresh()
	hostPath(pod)
	if err := server.Client.Create(t.Context(), pod, client.DryRunAll); err != nil {
		t.Errorf("an administrator is refused: %v", err)
	}
}

func hostPath(p *corev1.Pod) {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}})
}

func token(p *corev1.Pod) {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "stolen", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}},
	}}})
}

func mount(c *corev1.Container, volume string) {
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: "/stolen"})
}

func forgeOthers(t *testing.T, thief client.Client, pool *v1alpha1.WorkerPool) {
	ctx, namespace := t.Context(), pool.Namespace
	// meta copies what the operator's own objects carry, owner included.
	meta := func(name string) metav1.ObjectMeta {
		owner := *metav1.NewControllerRef(pool, v1alpha1.GroupVersion.WithKind("WorkerPool"))
		return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{v1alpha1.LabelPoolUID: string(pool.UID)}, OwnerReferences: []metav1.OwnerReference{owner}}
	}
	rule := rbacv1.PolicyRule{APIGroups: []string{"snakepit.dev"}, Resources: []string{"workergroups"}, ResourceNames: []string{"a"}, Verbs: []string{"get", "list", "watch"}}
	role := func(edit func(*rbacv1.Role)) *rbacv1.Role {
		r := &rbacv1.Role{ObjectMeta: meta("forged-router"), Rules: []rbacv1.PolicyRule{*rule.DeepCopy()}}
		edit(r)
		return r
	}
	create := func(o client.Object) error { return thief.Create(ctx, o, client.DryRunAll) }
	if err := create(role(func(*rbacv1.Role) {})); err != nil {
		t.Fatalf("an honest role is refused: %v", err)
	}
	const only = "allow only to read WorkerGroups by name"
	refuse(t, create(role(func(r *rbacv1.Role) { r.OwnerReferences = nil })), "that a WorkerPool controls")
	refuse(t, create(role(func(r *rbacv1.Role) { r.Name = "forged" })), "named POOL-router")
	refuse(t, create(role(func(r *rbacv1.Role) { r.Rules[0].ResourceNames = nil })), only)
	refuse(t, create(role(func(r *rbacv1.Role) { r.Rules[0].Verbs = []string{"delete"} })), only)
	refuse(t, create(role(func(r *rbacv1.Role) {
		r.Rules[0] = rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, ResourceNames: []string{"a"}, Verbs: []string{"get"}}
	})), only)
	access := pool.Name + v1alpha1.RouterAccountSuffix
	binding := &rbacv1.RoleBinding{ObjectMeta: meta("forged-router"), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: access}}
	refuse(t, create(binding), "the role of the same name")
	s := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: access}}
	if err := server.Client.Get(ctx, client.ObjectKeyFromObject(s), s); err != nil {
		t.Fatal(err)
	}
	wide := s.DeepCopy()
	wide.Subjects = []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "thief"}}
	refuse(t, thief.Patch(ctx, wide, client.MergeFrom(s), client.DryRunAll), "only service accounts of their own namespace")

	service := &corev1.Service{ObjectMeta: meta("forged"), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}, Type: corev1.ServiceTypeNodePort, Selector: map[string]string{v1alpha1.LabelPoolUID: "x"}}}
	refuse(t, create(service), "inside the cluster only")
	service.Spec.Type, service.Spec.Selector = corev1.ServiceTypeClusterIP, map[string]string{"app": "bank"}
	refuse(t, create(service), "select pods of one pool")
	refuse(t, create(&corev1.ServiceAccount{ObjectMeta: meta("forged-router")}), "automountServiceAccountToken: false and no secrets")

	foreign := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "foreign"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	if err := server.Client.Create(ctx, foreign); err != nil {
		t.Fatal(err)
	}
	refuse(t, thief.Delete(ctx, foreign, client.DryRunAll), "only objects of pools")
}
