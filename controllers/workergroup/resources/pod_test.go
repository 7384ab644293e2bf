package resources

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func newGroup() *v1alpha1.WorkerGroup {
	g := &v1alpha1.WorkerGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "demo-r1-0", UID: "group-uid", Labels: map[string]string{v1alpha1.LabelPoolUID: "pool-uid"}}}
	g.Spec.PoolName, g.Spec.Revision, g.Spec.Workers = "demo", "r1", 2
	g.Spec.Image, g.Spec.Adapter, g.Spec.Args = "registry.example/app:1", "app:App", []string{"--model", "small"}
	g.Spec.Drain.Timeout = &metav1.Duration{Duration: 5 * time.Second}
	return g
}

func golden(t *testing.T, name string, got any) {
	t.Helper()
	text, err := yaml.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name+".yaml")
	if *update {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != string(want) {
		t.Errorf("%s differs (go test -update rewrites it):\n%s", path, text)
	}
}

func TestPod(t *testing.T) {
	pod, err := MakePod(newGroup(), 0, "router:1")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "pod", pod)
}

func overlaid() *v1alpha1.PodTemplate {
	return &v1alpha1.PodTemplate{
		Metadata: &v1alpha1.TemplateMetadata{Labels: map[string]string{"team": "a", "app.kubernetes.io/name": "not-theirs"}, Annotations: map[string]string{"note": "x"}},
		Spec: &v1alpha1.PodTemplateSpec{
			Containers: []corev1.Container{
				{
					Name:            v1alpha1.WorkerContainer,
					Env:             []corev1.EnvVar{{Name: "HOME", Value: "/data"}, {Name: "MODE", Value: "fast"}},
					Resources:       corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("2Gi")}},
					VolumeMounts:    []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
					SecurityContext: &corev1.SecurityContext{RunAsUser: ptr.To[int64](1000), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"NET_RAW"}}},
				},
				{Name: "log", Image: "log:1"},
			},
			InitContainers:     []corev1.Container{{Name: "fetch", Image: "fetch:1"}},
			Volumes:            []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
			NodeSelector:       map[string]string{"gpu": "yes"},
			ServiceAccountName: "mine",
			SecurityContext:    &corev1.PodSecurityContext{SupplementalGroups: []int64{2000}},
		},
	}
}

// The number of calls at a time reaches the workers only where it is more than one: pods of other pools stay as they were.
func TestSlots(t *testing.T) {
	for slots, want := range map[int32]string{0: "", 2: "2", 256: "256"} {
		group := newGroup()
		group.Spec.Slots = slots
		pod, err := MakePod(group, 0, "router:1")
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, e := range pod.Spec.Containers[0].Env {
			if e.Name == v1alpha1.EnvSlots {
				got = e.Value
			}
		}
		if got != want {
			t.Errorf("slots %d: %s=%q, want %q", slots, v1alpha1.EnvSlots, got, want)
		}
	}
}

func TestPodWithTemplate(t *testing.T) {
	group := newGroup()
	group.Spec.Template = overlaid()
	pod, err := MakePod(group, 3, "router:1")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "pod-with-template", pod)
}

// Whatever the template says, the router is untouched and nothing is weaker than the restricted standard.
func TestTemplateCannotWeaken(t *testing.T) {
	plain, err := MakePod(newGroup(), 0, "router:1")
	if err != nil {
		t.Fatal(err)
	}
	group := newGroup()
	group.Spec.Template = overlaid()
	pod, err := MakePod(group, 0, "router:1")
	if err != nil {
		t.Fatal(err)
	}
	router := pod.Spec.InitContainers[len(pod.Spec.InitContainers)-1]
	if a, b := text(t, router), text(t, plain.Spec.InitContainers[0]); a != b {
		t.Errorf("the router changed:\n%s\n%s", a, b)
	}
	for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		s := c.SecurityContext
		if s == nil || !*s.RunAsNonRoot || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || len(s.Capabilities.Add) > 0 || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
			t.Errorf("container %s is not restricted: %s", c.Name, text(t, s))
		}
		if c.Name == v1alpha1.RouterContainer {
			continue
		}
		for _, m := range c.VolumeMounts {
			if m.Name == volumeToken || m.Name == volumeState || (m.Name == volumeBridge && !m.ReadOnly) {
				t.Errorf("container %s mounts %s", c.Name, m.Name)
			}
		}
	}
	if *pod.Spec.AutomountServiceAccountToken {
		t.Error("the API token is mounted everywhere")
	}
}

func text(t *testing.T, v any) string {
	t.Helper()
	raw, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// What may not be in a template is refused with its path, even where the CRD let it through.
func TestTemplateRefused(t *testing.T) {
	worker := func(edit func(*corev1.Container)) func(*v1alpha1.PodTemplate) {
		return func(p *v1alpha1.PodTemplate) { edit(&p.Spec.Containers[0]) }
	}
	for _, c := range []struct {
		says string
		edit func(*v1alpha1.PodTemplate)
	}{
		{"template.metadata.labels[snakepit.dev/pool]", func(p *v1alpha1.PodTemplate) { p.Metadata.Labels["snakepit.dev/pool"] = "x" }},
		{"template.spec.volumes[0].name: snakepit-token is reserved", func(p *v1alpha1.PodTemplate) { p.Spec.Volumes[0].Name = volumeToken }},
		{"template.spec.containers[router].name", func(p *v1alpha1.PodTemplate) { p.Spec.Containers[1].Name = "router" }},
		{"template.spec.initContainers[worker].name", func(p *v1alpha1.PodTemplate) { p.Spec.InitContainers[0].Name = "worker" }},
		{"use spec.image", worker(func(c *corev1.Container) { c.Image = "x" })},
		{"env[SNAKEPIT_BRIDGE]", worker(func(c *corev1.Container) { c.Env[0].Name = v1alpha1.EnvBridge })},
		{"volumeMounts[snakepit-token]", func(p *v1alpha1.PodTemplate) {
			p.Spec.Containers[1].VolumeMounts = []corev1.VolumeMount{{Name: volumeToken, MountPath: "/t"}}
		}},
		{"/run/snakepit/bridge belongs to the operator", worker(func(c *corev1.Container) { c.VolumeMounts[0].MountPath = v1alpha1.BridgeDir })},
		{"port 50051 belongs to the router", func(p *v1alpha1.PodTemplate) {
			p.Spec.Containers[1].Ports = []corev1.ContainerPort{{ContainerPort: 50051}}
		}},
		{"run without privileges", worker(func(c *corev1.Container) { c.SecurityContext.Privileged = ptr.To(true) })},
		{"run without privileges", worker(func(c *corev1.Container) { c.SecurityContext.ReadOnlyRootFilesystem = ptr.To(false) })},
		{"run without privileges", worker(func(c *corev1.Container) { c.SecurityContext.RunAsUser = ptr.To[int64](0) })},
		{"Unconfined is refused", worker(func(c *corev1.Container) {
			c.SecurityContext.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}
		})},
		{"the port name grpc belongs to the router", worker(func(c *corev1.Container) { c.Ports = []corev1.ContainerPort{{Name: "grpc", ContainerPort: 8080}} })},
		{"remove hostPort", worker(func(c *corev1.Container) { c.Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 80}} })},
		{"is always restarted", worker(func(c *corev1.Container) { c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyNever) })},
		{"/x/../run belongs to the operator", worker(func(c *corev1.Container) { c.VolumeMounts[0].MountPath = "/x/../run" })},
		{"use a persistentVolumeClaim", func(p *v1alpha1.PodTemplate) {
			p.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}
		}},
		{"a token of a router's account", func(p *v1alpha1.PodTemplate) {
			p.Spec.ServiceAccountName = "demo-router"
			p.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t"}}}}}
		}},
		{"use appArmorProfile", func(p *v1alpha1.PodTemplate) {
			p.Metadata.Annotations["container.apparmor.security.beta.kubernetes.io/worker"] = "unconfined"
		}},
		{"do not run as root", func(p *v1alpha1.PodTemplate) { p.Spec.SecurityContext.RunAsNonRoot = ptr.To(false) }},
	} {
		group := newGroup()
		group.Spec.Template = overlaid()
		c.edit(group.Spec.Template)
		if _, err := MakePod(group, 0, "router:1"); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("got %v, want it refused with %q", err, c.says)
		}
	}
}

func TestGraceCoversDrain(t *testing.T) {
	settings := &v1alpha1.PodSettings{}
	if got := GraceSeconds(settings); got != 45 {
		t.Errorf("default %d, want 45", got)
	}
	settings.Drain.Timeout = &metav1.Duration{Duration: 1500 * time.Millisecond}
	if got := GraceSeconds(settings); got != 17 {
		t.Errorf("1.5 s of drain: %d, want 17", got)
	}
}

func TestPodNames(t *testing.T) {
	group := &v1alpha1.WorkerGroup{ObjectMeta: metav1.ObjectMeta{Name: "demo-r1-0", UID: "a"}}
	next := &v1alpha1.WorkerGroup{ObjectMeta: metav1.ObjectMeta{Name: "demo-r1-0", UID: "b"}}
	if n, ok := PodOrdinal(group, PodName(group, 7)); n != 7 || !ok {
		t.Errorf("%d %v", n, ok)
	}
	for _, other := range []string{"demo-r1-0", "demo-r1-0-x", "demo-r1-01-0", "demo-r1-0--1", PodName(next, 0), PodName(group, 0) + "-1", PodName(group, -1)} {
		if n, ok := PodOrdinal(group, other); ok {
			t.Errorf("%s is pod %d of demo-r1-0", other, n)
		}
	}
	// The longest: a pool's name of 40 characters, a revision of 8, two numbers of 3 digits each.
	group.Name = strings.Repeat("p", 40) + "-" + strings.Repeat("r", 8) + "-999"
	if name := PodName(group, 999); len(name) > 63 {
		t.Errorf("%s has %d characters, and a host name at most 63", name, len(name))
	}
}
