package config

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// dist/ holds what kustomize makes of config/default and config/namespaced; make verify fails when it is behind.
func installed(t *testing.T) map[string][][]byte {
	t.Helper()
	files, err := filepath.Glob("../dist/*.yaml")
	if err != nil || len(files) != 2 {
		t.Fatalf("dist/ has %v (%v), want two manifests", files, err)
	}
	all := map[string][][]byte{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
		for {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			all[filepath.Base(file)] = append(all[filepath.Base(file)], document)
		}
	}
	return all
}

func read[T any](t *testing.T, document []byte) *T {
	t.Helper()
	into := new(T)
	if err := yaml.Unmarshal(document, into); err != nil {
		t.Fatal(err)
	}
	return into
}

func kindOf(t *testing.T, document []byte) string {
	t.Helper()
	return read[struct {
		Kind string `json:"kind"`
	}](t, document).Kind
}

func TestPodsAreRestricted(t *testing.T) {
	// What runs pods, and how this test finds their template; another kind has to be added here.
	for file, documents := range installed(t) {
		pods := 0
		for _, document := range documents {
			switch kind := kindOf(t, document); kind {
			case "Deployment":
				pods++
				deployment := read[appsv1.Deployment](t, document)
				for _, fault := range append(podFaults(&deployment.Spec.Template.Spec), careFaults(&deployment.Spec.Template.Spec, nil)...) {
					t.Errorf("%s: Deployment %s: %s", file, deployment.Name, fault)
				}
			case "Pod", "DaemonSet", "StatefulSet", "ReplicaSet", "Job", "CronJob":
				t.Errorf("%s has a %s, which this test does not look into", file, kind)
			}
		}
		if pods != 1 {
			t.Errorf("%s has %d Deployments, want 1", file, pods)
		}
	}
	for path, users := range map[string][]string{
		// The user of a pool says what the worker container gets; the supervisor's life is the router's business, so it has no probes.
		"../controllers/workergroup/resources/testdata/pod.yaml": {"worker"},
		// It serves nobody.
		"../hack/demo/client.yaml": {"client"},
	} {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pod := read[corev1.Pod](t, content)
		for _, fault := range append(podFaults(&pod.Spec), careFaults(&pod.Spec, users)...) {
			t.Errorf("%s: %s", path, fault)
		}
	}
}

// podFaults is the restricted Pod Security Standard, and what we ask for beyond it.
func podFaults(pod *corev1.PodSpec) []string {
	var faults []string
	check := func(ok bool, fault string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Sprintf(fault, args...))
		}
	}
	check(!pod.HostNetwork && !pod.HostPID && !pod.HostIPC, "it uses a namespace of the host")
	check(pod.AutomountServiceAccountToken != nil, "automountServiceAccountToken is not stated")
	for _, v := range pod.Volumes {
		check(v.HostPath == nil, "volume %s is a hostPath", v.Name)
	}
	outer := pod.SecurityContext
	if outer == nil {
		outer = &corev1.PodSecurityContext{}
	}
	for _, c := range containersOf(pod) {
		own := c.SecurityContext
		if own == nil {
			own = &corev1.SecurityContext{}
		}
		nonRoot := first(own.RunAsNonRoot, outer.RunAsNonRoot)
		check(nonRoot != nil && *nonRoot, "%s: runAsNonRoot is not true", c.Name)
		user := first(own.RunAsUser, outer.RunAsUser)
		check(user != nil && *user > 0, "%s: no user other than root is given", c.Name)
		profile := first(own.SeccompProfile, outer.SeccompProfile)
		check(profile != nil && profile.Type == corev1.SeccompProfileTypeRuntimeDefault, "%s: the seccomp profile is not RuntimeDefault", c.Name)
		check(own.Privileged == nil || !*own.Privileged, "%s: it is privileged", c.Name)
		check(own.AllowPrivilegeEscalation != nil && !*own.AllowPrivilegeEscalation, "%s: allowPrivilegeEscalation is not false", c.Name)
		check(own.ReadOnlyRootFilesystem != nil && *own.ReadOnlyRootFilesystem, "%s: readOnlyRootFilesystem is not true", c.Name)
		check(own.Capabilities != nil && slices.Contains(own.Capabilities.Drop, "ALL") && len(own.Capabilities.Add) == 0, "%s: it does not drop ALL capabilities", c.Name)
		for _, p := range c.Ports {
			check(p.HostPort == 0, "%s: port %d is the node's", c.Name, p.ContainerPort)
		}
		tagged := strings.Contains(c.Image[strings.LastIndex(c.Image, "/")+1:], ":")
		check(tagged && !strings.HasSuffix(c.Image, ":latest"), "%s: the image %s has no version", c.Name, c.Image)
	}
	return faults
}

// careFaults are missing resources and probes. A container in except is the user's.
func careFaults(pod *corev1.PodSpec, except []string) []string {
	var faults []string
	for _, c := range containersOf(pod) {
		if slices.Contains(except, c.Name) {
			continue
		}
		// No limit of CPU: it would only throttle what runs on time that nobody else wants.
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
			faults = append(faults, c.Name+": requests of CPU and memory and a limit of memory are not all given")
		}
		if c.LivenessProbe == nil || c.ReadinessProbe == nil {
			faults = append(faults, c.Name+": liveness and readiness probe are not both given")
		}
	}
	return faults
}

func containersOf(pod *corev1.PodSpec) []corev1.Container {
	return append(slices.Clone(pod.InitContainers), pod.Containers...)
}

func first[T any](values ...*T) *T {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}

func TestRolesAreNarrow(t *testing.T) {
	for file, documents := range installed(t) {
		roles, account := 0, false
		for _, document := range documents {
			switch kind := kindOf(t, document); kind {
			case "ClusterRole", "Role":
				roles++
				role := read[rbacv1.ClusterRole](t, document)
				for _, fault := range ruleFaults(role.Rules) {
					t.Errorf("%s: %s %s: %s", file, kind, role.Name, fault)
				}
				if kind == "ClusterRole" && role.AggregationRule != nil {
					t.Errorf("%s: ClusterRole %s takes the rules of others", file, role.Name)
				}
				if kind == "ClusterRole" && file == "install-namespaced.yaml" {
					t.Errorf("%s has ClusterRole %s", file, role.Name)
				}
			case "ClusterRoleBinding", "RoleBinding":
				for _, subject := range read[rbacv1.ClusterRoleBinding](t, document).Subjects {
					if subject.Kind != rbacv1.ServiceAccountKind || subject.Name != "snakepit-operator" {
						t.Errorf("%s binds a role to %s %s", file, subject.Kind, subject.Name)
					}
				}
			case "ServiceAccount":
				a := read[corev1.ServiceAccount](t, document)
				account = a.AutomountServiceAccountToken != nil && !*a.AutomountServiceAccountToken
			}
		}
		if roles == 0 || !account {
			t.Errorf("%s: %d roles; an account that gives no token unasked: %v", file, roles, account)
		}
	}
}

func ruleFaults(rules []rbacv1.PolicyRule) []string {
	// Reading a Secret, running something in a pod or acting as another are as good as any right.
	resources := []schema.GroupResource{
		{Resource: "secrets"}, {Resource: "configmaps"}, {Resource: "pods/exec"}, {Resource: "pods/attach"}, {Resource: "pods/portforward"},
		{Resource: "pods/ephemeralcontainers"}, {Resource: "nodes/proxy"}, {Resource: "serviceaccounts/token"}, {Resource: "users"}, {Resource: "groups"},
		{Group: "rbac.authorization.k8s.io", Resource: "clusterroles"}, {Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings"},
	}
	var faults []string
	for _, rule := range rules {
		for _, values := range [][]string{rule.Verbs, rule.APIGroups, rule.Resources, rule.NonResourceURLs} {
			if strings.Contains(strings.Join(values, " "), "*") {
				faults = append(faults, fmt.Sprintf("wildcard in %v", values))
			}
		}
		for _, verb := range rule.Verbs {
			if slices.Contains([]string{"escalate", "bind", "impersonate", "approve", "sign"}, verb) {
				faults = append(faults, "verb "+verb)
			}
		}
		for _, r := range resources {
			if slices.Contains(rule.APIGroups, r.Group) && slices.Contains(rule.Resources, r.Resource) {
				faults = append(faults, "access to "+r.String())
			}
		}
	}
	return faults
}

// The checks themselves find each fault.
func TestFaultsAreFound(t *testing.T) {
	bad := &corev1.PodSpec{HostPID: true, Containers: []corev1.Container{{Name: "c", Image: "registry:5000/name", Ports: []corev1.ContainerPort{{HostPort: 1}}}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}}
	if got := append(podFaults(bad), careFaults(bad, nil)...); len(got) != 13 {
		t.Errorf("of a bad pod %d faults are found:\n%s", len(got), strings.Join(got, "\n"))
	}
	rules := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"*"}}, {APIGroups: []string{"rbac.authorization.k8s.io"}, Resources: []string{"roles"}, Verbs: []string{"bind"}}}
	if got := ruleFaults(rules); len(got) != 3 {
		t.Errorf("of bad rules %d faults are found: %v", len(got), got)
	}
}
