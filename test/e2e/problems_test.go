package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// A problem of a pool on a real node: what makes it, what the pool says of it, and how it goes away.
type problem struct {
	name    string
	make    poolOption
	reasons []string
	says    []string
	heal    func(*story, *v1alpha1.WorkerPool)
}

// healBound of R11.
const healBound = 60 * time.Second

func worker(edit func(*corev1.Container)) poolOption {
	return func(p *v1alpha1.WorkerPool) { edit(&p.Spec.Template.Spec.Containers[0]) }
}

// path has the container look for programs only there.
func path(where string) poolOption {
	return worker(func(c *corev1.Container) { c.Env = append(c.Env, corev1.EnvVar{Name: "PATH", Value: where}) })
}

func hang(p *v1alpha1.WorkerPool) {
	p.Spec.Adapter = "sick:Hanging"
	p.Spec.Startup.Timeout = &metav1.Duration{Duration: 3 * time.Second}
}

func greedy(p *v1alpha1.WorkerPool) {
	p.Spec.Adapter = "sick:Greedy"
	p.Spec.Template.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("192Mi")}
}

// foreign has a python3 in front of the real one that is built for another processor.
func foreign(p *v1alpha1.WorkerPool) {
	path("/foreign")(p)
	p.Spec.Template.Spec.Containers[0].VolumeMounts = append(p.Spec.Template.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "foreign", MountPath: "/foreign"})
	p.Spec.Template.Spec.Volumes = append(p.Spec.Template.Spec.Volumes, corev1.Volume{Name: "foreign", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "foreign"}, DefaultMode: ptr.To[int32](0o755)},
	}})
}

// foreignProgram is the head of a program for a processor that no node has (machine number 0xfefe).
var foreignProgram = append([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xfe\xfe\x01\x00\x00\x00"), make([]byte, 40)...)

// bySpec heals a pool as its user would: with the spec that works.
func bySpec(s *story, p *v1alpha1.WorkerPool) {
	s.change(p, func(p *v1alpha1.WorkerPool) {
		fresh := s.newPool("fresh")
		p.Spec.Image, p.Spec.Adapter, p.Spec.Template, p.Spec.Startup = fresh.Spec.Image, fresh.Spec.Adapter, fresh.Spec.Template, fresh.Spec.Startup
	})
}

var nodeProblems = []problem{
	{"image", func(p *v1alpha1.WorkerPool) { p.Spec.Image = "localhost/snakepit/worker:no-such-tag" },
		[]string{v1alpha1.ReasonImagePullFailed}, []string{"image localhost/snakepit/worker:no-such-tag of container worker", "cannot be pulled"}, bySpec},
	{"secret", worker(func(c *corev1.Container) {
		c.Env = append(c.Env, corev1.EnvVar{Name: "KEY", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "database"}, Key: "key"}}})
	}), []string{v1alpha1.ReasonContainerConfigInvalid}, []string{`secret "database" not found`, "Make it"}, func(s *story, _ *v1alpha1.WorkerPool) {
		s.must(cluster.Create(s.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "database"}, StringData: map[string]string{"key": "k"}}))
	}},
	{"import", adapter("broken:App"), []string{v1alpha1.ReasonAdapterFailed}, []string{"ModuleNotFoundError", "broken.py:3"}, bySpec},
	{"setup", hang, []string{v1alpha1.ReasonWorkersFailing, v1alpha1.ReasonCrashLooping}, []string{"STARTUP_TIMEOUT"}, bySpec},
	{"memory", greedy, []string{v1alpha1.ReasonOutOfMemory, v1alpha1.ReasonWorkersFailing, v1alpha1.ReasonCrashLooping}, []string{"memory limit"}, bySpec},
	{"processor", foreign, []string{v1alpha1.ReasonWrongArchitecture}, []string{"not built for the processor of node"}, bySpec},
	{"python", path("/nowhere"), []string{v1alpha1.ReasonContainerStartFailed}, []string{"The image must hold python3"}, bySpec},
}

// R11 on a real node: each problem is told, none churns, and all heal, without anybody deleting something. An image with a named USER is none:
// the pod gives it a number.
func TestProblems(t *testing.T) {
	s := begin(t)
	s.must(cluster.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "foreign"}, BinaryData: map[string][]byte{"python3": foreignProgram}}))
	pools := map[string]*v1alpha1.WorkerPool{}
	for _, p := range nodeProblems {
		pools[p.name] = s.pool("sick-"+p.name, workers(1), p.make)
	}
	var named *v1alpha1.WorkerPool
	if !clusterIsForeign() {
		user := s.loadNamedUserImage()
		named = s.pool("named-user", workers(1), func(p *v1alpha1.WorkerPool) { p.Spec.Image = user })
	}
	for _, p := range nodeProblems {
		s.told(p, pools[p.name])
	}
	if named != nil {
		s.ready(named)
	}
	for _, p := range nodeProblems {
		if pods := s.workerPods(pools[p.name]); len(pods) != 1 {
			t.Errorf("%s: %d pods, want 1", p.name, len(pods))
		}
	}
	began := time.Now()
	for _, p := range nodeProblems {
		p.heal(s, pools[p.name])
	}
	for _, p := range nodeProblems {
		s.ready(pools[p.name])
		if c := meta.FindStatusCondition(pools[p.name].Status.Conditions, v1alpha1.ConditionStalled); c != nil {
			t.Errorf("%s: healed, and still Stalled: %s", p.name, c.Message)
		}
	}
	took := time.Since(began)
	s.must(fixture.AppendFigures([]fixture.Figure{{ID: "R11", Figure: "heal on a node", Value: took.Seconds(), Unit: "s", Bound: fmt.Sprintf("<=%.0f", healBound.Seconds()),
		OK: took <= healBound, Runs: len(nodeProblems), Command: "make test-e2e", Clock: true}}))
	t.Logf("figure: %d problems healed within %.1f s", len(nodeProblems), took.Seconds())
	for _, p := range nodeProblems {
		s.must(client.IgnoreNotFound(cluster.Delete(s.ctx, pools[p.name])))
	}
}

// told waits until the pool tells of its problem.
func (s *story) told(p problem, pool *v1alpha1.WorkerPool) {
	s.t.Helper()
	s.eventually(healBound, p.name+" is told", func() error {
		c := meta.FindStatusCondition(s.get(pool).Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Status != metav1.ConditionFalse || !strings.Contains(strings.Join(p.reasons, " "), c.Reason) {
			return fmt.Errorf("conditions %s", conditions(pool.Status.Conditions))
		}
		for _, text := range append(p.says, pool.Name) {
			if !strings.Contains(c.Message, text) {
				return fmt.Errorf("the message does not say %q: %s", text, c.Message)
			}
		}
		return nil
	})
	s.t.Logf("%s: %s", p.name, conditions(pool.Status.Conditions[:1]))
}
