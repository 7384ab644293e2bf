package resources

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func newPool() *v1alpha1.WorkerPool {
	p := &v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "demo", UID: "pool-uid"}}
	p.Spec.Workers, p.Spec.Image, p.Spec.Adapter = 2, "registry.example/app:1", "app:App"
	p.Spec.Sessions.Affinity = v1alpha1.AffinityStrictQueue
	return p
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

func TestObjects(t *testing.T) {
	pool := newPool()
	for name, obj := range map[string]any{
		"group":          MakeGroup(pool, "r1", 0),
		"service":        MakeService(pool),
		"serviceaccount": MakeServiceAccount(pool),
		"role":           MakeRole(pool, []string{"demo-r1-0"}),
		"rolebinding":    MakeRoleBinding(pool),

		"poddisruptionbudget": MakePodDisruptionBudget(pool),
	} {
		golden(t, name, obj)
	}
}

// The account of the template is used as it is, and the pool's own is not made.
func TestNamedAccount(t *testing.T) {
	pool := newPool()
	pool.Spec.Template = &v1alpha1.PodTemplate{Spec: &v1alpha1.PodTemplateSpec{ServiceAccountName: "mine"}}
	if MakeServiceAccount(pool) != nil {
		t.Error("an account is made although the template names one")
	}
	if got := MakeRoleBinding(pool).Subjects[0].Name; got != "mine" {
		t.Errorf("the role goes to %s, want mine", got)
	}
}

// A rule without resourceNames would allow everything.
func TestRoleWithoutGroupsAllowsNothing(t *testing.T) {
	if rules := MakeRole(newPool(), nil).Rules; len(rules) != 0 {
		t.Errorf("rules %+v", rules)
	}
}

func revision(t interface{ Fatal(...any) }, s *v1alpha1.PodSettings) string {
	r, err := Revision(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A fixed input keeps its revision for ever: another value here means that every pool restarts on the operator's upgrade.
func TestRevisionIsStable(t *testing.T) {
	if got := revision(t, &newPool().Spec.PodSettings); got != goldenRevision {
		t.Errorf("revision %s, want %s: an upgrade would restart every pool", got, goldenRevision)
	}
}

// Saying a default is the same as saying nothing; what is in the pod makes a difference.
func TestRevision(t *testing.T) {
	base := newPool().Spec.PodSettings
	container := func(c corev1.Container) *v1alpha1.PodTemplate {
		c.Name = "worker"
		return &v1alpha1.PodTemplate{Spec: &v1alpha1.PodTemplateSpec{Containers: []corev1.Container{c}}}
	}
	cpu := func(text string) corev1.Container {
		return corev1.Container{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(text)}}}
	}
	same := map[string][2]func(*v1alpha1.PodSettings){
		"protocol":    {func(s *v1alpha1.PodSettings) { s.Protocol = v1alpha1.ProtocolSnakepit }, nil},
		"profile":     {func(s *v1alpha1.PodSettings) { s.Profile = v1alpha1.ProfileProcess }, nil},
		"drain":       {func(s *v1alpha1.PodSettings) { s.Drain.Timeout = &metav1.Duration{Duration: 30 * time.Second} }, nil},
		"template":    {func(s *v1alpha1.PodSettings) { s.Template = &v1alpha1.PodTemplate{Spec: &v1alpha1.PodTemplateSpec{}} }, nil},
		"drain's end": {func(s *v1alpha1.PodSettings) { s.Drain.OnDeadline = v1alpha1.DrainHold }, nil},
		"no args":     {func(s *v1alpha1.PodSettings) { s.Args = []string{} }, nil},
		"quantity":    {func(s *v1alpha1.PodSettings) { s.Template = container(cpu("1000m")) }, func(s *v1alpha1.PodSettings) { s.Template = container(cpu("1")) }},
		"port's": {func(s *v1alpha1.PodSettings) {
			s.Template = container(corev1.Container{Ports: []corev1.ContainerPort{{ContainerPort: 1, Protocol: "TCP"}}})
		}, func(s *v1alpha1.PodSettings) {
			s.Template = container(corev1.Container{Ports: []corev1.ContainerPort{{ContainerPort: 1}}})
		}},
	}
	for name, pair := range same {
		a, b := base.DeepCopy(), base.DeepCopy()
		pair[0](a)
		if pair[1] != nil {
			pair[1](b)
		}
		if revision(t, a) != revision(t, b) {
			t.Errorf("%s: the revision changed", name)
		}
	}
	different := map[string]func(*v1alpha1.PodSettings){
		"image":      func(s *v1alpha1.PodSettings) { s.Image += "x" },
		"adapter":    func(s *v1alpha1.PodSettings) { s.Adapter += "x" },
		"args":       func(s *v1alpha1.PodSettings) { s.Args = []string{"x"} },
		"empty arg":  func(s *v1alpha1.PodSettings) { s.Args = []string{""} },
		"empty args": func(s *v1alpha1.PodSettings) { s.Args = []string{"", ""} },
		"drain":      func(s *v1alpha1.PodSettings) { s.Drain.Timeout = &metav1.Duration{Duration: time.Second} },
		"resources":  func(s *v1alpha1.PodSettings) { s.Template = container(cpu("2")) },
		"threads":    func(s *v1alpha1.PodSettings) { s.Profile, s.Slots = v1alpha1.ProfileThread, 2 },
		"more slots": func(s *v1alpha1.PodSettings) { s.Profile, s.Slots = v1alpha1.ProfileThread, 3 },
		"emptyDir": func(s *v1alpha1.PodSettings) {
			s.Template = &v1alpha1.PodTemplate{Spec: &v1alpha1.PodTemplateSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}}}
		},
		"false": func(s *v1alpha1.PodSettings) {
			no := false
			s.Template = container(corev1.Container{SecurityContext: &corev1.SecurityContext{RunAsNonRoot: &no}})
		},
	}
	seen := map[string]string{revision(t, &base): "base"}
	for name, edit := range different {
		s := base.DeepCopy()
		edit(s)
		r := revision(t, s)
		if other, ok := seen[r]; ok {
			t.Errorf("%s has the same revision as %s", name, other)
		}
		seen[r] = name
	}
}

// Reading the settings back from JSON, as the API server stores them, keeps the revision.
func TestRevisionSurvivesStorage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newPool().Spec.PodSettings
		s.Args = rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, "args")
		s.Drain.Timeout = &metav1.Duration{Duration: time.Duration(rapid.IntRange(1, 1e6).Draw(t, "drain")) * time.Millisecond}
		s.Template = &v1alpha1.PodTemplate{Metadata: &v1alpha1.TemplateMetadata{Labels: rapid.MapOfN(rapid.StringMatching("[a-z]+"), rapid.StringMatching("[a-z]*"), 0, 3).Draw(t, "labels")}}
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var back v1alpha1.PodSettings
		if err := json.Unmarshal(raw, &back); err != nil {
			t.Fatal(err)
		}
		if revision(t, &s) != revision(t, &back) {
			t.Fatalf("%s", raw)
		}
	})
}

func TestMatches(t *testing.T) {
	pool := newPool()
	have := MakeService(pool)
	have.Spec.ClusterIP, have.Labels["theirs"], have.Annotations = "10.0.0.1", "x", map[string]string{"a": "b"}
	if !ServiceMatches(MakeService(pool), have) {
		t.Error("what others add is compared")
	}
	have.Spec.Selector["more"] = "x"
	if ServiceMatches(MakeService(pool), have) {
		t.Error("a changed selector is not seen")
	}
	group := MakeGroup(pool, "r1", 0)
	pool.Spec.Workers = 5
	if GroupMatches(MakeGroup(pool, "r1", 0), group) {
		t.Error("a changed number of workers is not seen")
	}
	orphaned := MakeRole(pool, []string{"g"})
	orphaned.OwnerReferences = nil
	if RoleMatches(MakeRole(pool, []string{"g"}), orphaned) {
		t.Error("a missing owner is not seen")
	}
}

// goldenRevision of the smallest pool.
const goldenRevision = "miqvvsve"
