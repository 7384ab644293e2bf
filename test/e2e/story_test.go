package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// story is one test in a namespace of its own.
type story struct {
	t         *testing.T
	ctx       context.Context
	namespace string
	pods      map[types.UID]string
}

// beginBeside begins a story that disturbs only what is its own: it runs beside others, after the stories that have the cluster for themselves.
func beginBeside(t *testing.T) *story {
	t.Helper()
	t.Parallel()
	if err := pinOperator(); err != nil {
		t.Fatal(err)
	}
	return begin(t)
}

// begin makes the namespace with the adapters, and ends the test with the audit.
func begin(t *testing.T) *story {
	t.Helper()
	name := "e2e-" + strings.ToLower(regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(strings.TrimPrefix(t.Name(), "Test"), "-"))
	s := &story{t: t, ctx: context.Background(), namespace: name, pods: map[types.UID]string{}}
	s.must(deleteNamespace(s.ctx, name))
	s.must(cluster.Create(s.ctx, restricted(name)))
	data, err := files("adapter/*.py")
	s.must(err)
	s.must(cluster.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "adapter"}, Data: data}))
	t.Cleanup(func() {
		if t.Failed() {
			s.dump()
		}
		s.audit()
	})
	return s
}

func (s *story) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *story) eventually(limit time.Duration, what string, try func() error) {
	s.t.Helper()
	if err := poll(limit, try); err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
}

type poolOption func(*v1alpha1.WorkerPool)

func workers(n int32) poolOption {
	return func(p *v1alpha1.WorkerPool) { p.Spec.Workers = n }
}

func adapter(name string) poolOption {
	return func(p *v1alpha1.WorkerPool) { p.Spec.Adapter = name }
}

// pool applies a WorkerPool that runs the stories' adapter.
func (s *story) pool(name string, options ...poolOption) *v1alpha1.WorkerPool {
	s.t.Helper()
	p := s.newPool(name)
	for _, option := range options {
		option(p)
	}
	s.must(cluster.Create(s.ctx, p))
	return p
}

func (s *story) newPool(name string) *v1alpha1.WorkerPool {
	p := &v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}}
	p.Spec.Workers = 2
	p.Spec.Image = image("worker")
	p.Spec.Adapter = "stories:Stories"
	p.Spec.Drain.Timeout = &metav1.Duration{Duration: 3 * time.Second}
	nodeSelector := map[string]string{}
	if nodes.second != "" {
		// Another story may take the second node away.
		nodeSelector[corev1.LabelHostname] = nodes.first
	}
	p.Spec.Template = &v1alpha1.PodTemplate{Spec: &v1alpha1.PodTemplateSpec{
		NodeSelector: nodeSelector,
		Containers: []corev1.Container{{
			Name:         v1alpha1.WorkerContainer,
			Env:          []corev1.EnvVar{{Name: "PYTHONPATH", Value: "/adapter"}},
			VolumeMounts: []corev1.VolumeMount{{Name: "adapter", MountPath: "/adapter", ReadOnly: true}},
		}},
		Volumes: []corev1.Volume{{Name: "adapter", VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "adapter"}},
		}}},
	}}
	return p
}

// change edits the pool as a user would, again on a conflict.
func (s *story) change(p *v1alpha1.WorkerPool, edit func(*v1alpha1.WorkerPool)) {
	s.t.Helper()
	s.eventually(10*time.Second, "changing the pool", func() error {
		if err := cluster.Get(s.ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		edit(p)
		return cluster.Update(s.ctx, p)
	})
}

func (s *story) get(p *v1alpha1.WorkerPool) *v1alpha1.WorkerPool {
	s.t.Helper()
	s.must(cluster.Get(s.ctx, client.ObjectKeyFromObject(p), p))
	return p
}

// ready waits until the pool says that all its workers are ready, for the generation that is there now.
func (s *story) ready(p *v1alpha1.WorkerPool) *v1alpha1.WorkerPool {
	s.t.Helper()
	s.eventually(90*time.Second, "pool "+p.Name+" Ready", func() error {
		if err := cluster.Get(s.ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != p.Generation || p.Status.ReadyWorkers != p.Spec.Workers {
			return fmt.Errorf("ready %s, conditions %s", p.Status.ReadySummary, conditions(p.Status.Conditions))
		}
		return nil
	})
	s.workerPods(p)
	return p
}

func conditions(list []metav1.Condition) string {
	var b strings.Builder
	for _, c := range list {
		fmt.Fprintf(&b, "%s=%s/%s (%s); ", c.Type, c.Status, c.Reason, c.Message)
	}
	return b.String()
}

// workerPods lists the pool's pods and remembers them for the audit.
func (s *story) workerPods(p *v1alpha1.WorkerPool) []corev1.Pod {
	s.t.Helper()
	var list corev1.PodList
	s.must(cluster.List(s.ctx, &list, client.InNamespace(s.namespace), client.MatchingLabels{v1alpha1.LabelPool: p.Name}))
	for _, pod := range list.Items {
		s.pods[pod.UID] = pod.Name
	}
	return list.Items
}

// onlyPod returns the one pod that is not being deleted.
func (s *story) onlyPod(p *v1alpha1.WorkerPool) corev1.Pod {
	s.t.Helper()
	var live []corev1.Pod
	for _, pod := range s.workerPods(p) {
		if pod.DeletionTimestamp == nil {
			live = append(live, pod)
		}
	}
	if len(live) != 1 {
		s.t.Fatalf("pool %s has %d pods, want 1", p.Name, len(live))
	}
	return live[0]
}

func (s *story) caller(p *v1alpha1.WorkerPool) caller {
	return caller{t: s.t, d: python, pool: p.Namespace + "/" + p.Name, address: fmt.Sprintf("%s.%s.svc:%d", p.Name, p.Namespace, v1alpha1.PortGRPC)}
}

// kubectl runs the user's own tool.
func (s *story) kubectl(args ...string) (string, error) {
	cmd := exec.Command(kubectlPath(), args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// kill sends SIGKILL to a process of the worker container, from inside it, as the same user.
func (s *story) kill(pod string, pid int) {
	s.t.Helper()
	out, err := s.kubectl("exec", "-n", s.namespace, pod, "-c", v1alpha1.WorkerContainer, "--",
		"python3", "-c", fmt.Sprintf("import os; os.kill(%d, 9)", pid))
	if err != nil {
		s.t.Fatalf("kill %d in %s: %v: %s", pid, pod, err, out)
	}
}

// delete removes the pool and waits until it is gone.
func (s *story) delete(p *v1alpha1.WorkerPool, limit time.Duration) {
	s.t.Helper()
	s.workerPods(p)
	s.auditTables(p)
	s.must(client.IgnoreNotFound(cluster.Delete(s.ctx, p)))
	s.gone(p, limit)
}

func (s *story) gone(p *v1alpha1.WorkerPool, limit time.Duration) {
	s.t.Helper()
	s.eventually(limit, "pool "+p.Name+" gone", func() error {
		err := cluster.Get(s.ctx, client.ObjectKeyFromObject(p), p)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("still there: %s", conditions(p.Status.Conditions))
	})
	s.must(s.leftovers())
}

// dump prints what a reader of a failed story needs.
func (s *story) dump() {
	for _, args := range [][]string{
		{"get", "wpool,wgroup,pods,events", "-n", s.namespace, "-o", "wide"},
		{"get", "wpool,wgroup", "-n", s.namespace, "-o", "yaml"},
		{"logs", "-n", s.namespace, "-l", v1alpha1.LabelPool, "-c", "worker", "--tail=30", "--prefix"},
		{"logs", "-n", s.namespace, "-l", v1alpha1.LabelPool, "-c", "router", "--tail=30", "--prefix"},
		{"logs", "-n", "snakepit-system", "deployment/snakepit-operator", "--tail=40"},
	} {
		out, _ := s.kubectl(args...)
		s.t.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
	}
}

func decode[T any](t *testing.T, raw json.RawMessage) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("answer %s: %v", raw, err)
	}
	return v
}

// loadNextImage gives the cluster the worker image under a second name, …:next, as a new build of the user's would have.
func (s *story) loadNextImage() string { return s.loadAgain("next", nil) }

// loadNamedUserImage gives the cluster the worker image with USER app, a name that no number stands behind.
func (s *story) loadNamedUserImage() string {
	return s.loadAgain("named-user", func(config map[string]any) {
		inner, _ := config["config"].(map[string]any)
		inner["User"] = "app"
	})
}

// loadAgain gives the cluster the worker image under another tag, and with another configuration when edit is not nil.
func (s *story) loadAgain(tag string, edit func(config map[string]any)) string {
	s.t.Helper()
	name := strings.TrimSuffix(image("worker"), ":dev") + ":" + tag
	path := filepath.Join(s.t.TempDir(), tag+".tar")
	source, err := os.Open("../../bin/images/worker.tar")
	s.must(err)
	defer func() { _ = source.Close() }()
	target, err := os.Create(path)
	s.must(err)
	s.must(rewrite(source, target, func(file string, text []byte) ([]byte, error) {
		switch {
		case file == "manifest.json" || file == "repositories":
			return bytes.ReplaceAll(text, []byte(image("worker")), []byte(name)), nil
		case edit == nil || strings.Contains(file, "/"):
			return text, nil
		}
		var config map[string]any
		if err := json.Unmarshal(text, &config); err != nil {
			return nil, err
		}
		edit(config)
		return json.Marshal(config)
	}))
	s.must(target.Close())
	_, err = onNodes("load", path)
	s.must(err)
	return name
}

// rewrite copies a docker-archive; its texts pass through edit.
func rewrite(source io.Reader, target io.Writer, edit func(file string, text []byte) ([]byte, error)) error {
	in, out := tar.NewReader(source), tar.NewWriter(target)
	for {
		header, err := in.Next()
		if err == io.EOF {
			return out.Close()
		}
		if err != nil {
			return err
		}
		var content io.Reader = in
		if strings.HasSuffix(header.Name, ".json") || header.Name == "repositories" {
			text, err := io.ReadAll(in)
			if err != nil {
				return err
			}
			if text, err = edit(header.Name, text); err != nil {
				return err
			}
			header.Size = int64(len(text))
			content = bytes.NewReader(text)
		}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.Copy(out, content); err != nil {
			return err
		}
	}
}
