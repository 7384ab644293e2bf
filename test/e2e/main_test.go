package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

const driverNamespace = "snakepit-e2e"

// What every story uses; set once by TestMain.
var (
	cluster client.Client
	python  *driver
	// nodes of a local cluster; second is empty where no node may be lost.
	nodes struct{ first, second string }
	// scratch is a folder of this run.
	scratch string
)

func TestMain(m *testing.M) {
	if os.Getenv("SNAKEPIT_E2E") == "" {
		fmt.Println("left out: the end-to-end stories need a cluster; to run them: make test-e2e")
		os.Exit(0)
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return 1, err
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return 1, err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return 1, fmt.Errorf("no cluster to test on (make cluster-up, or CLUSTER=current with a kubeconfig): %w", err)
	}
	config.QPS, config.Burst = 100, 200
	if cluster, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		return 1, err
	}
	if scratch, err = os.MkdirTemp("", "snakepit-e2e-"); err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	if err := findNodes(context.Background()); err != nil {
		return 1, err
	}
	if !clusterIsForeign() {
		go func() { _, _ = buildTool() }() // meanwhile; who needs it first waits for it, and tells what is wrong with it
	}
	if err := startClientPod(context.Background()); err != nil {
		return 1, err
	}
	defer func() {
		_ = cluster.Delete(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: driverNamespace}})
	}()
	if python, err = startDriver("client", driverNamespace); err != nil {
		return 1, fmt.Errorf("starting the driver: %w", err)
	}
	defer python.stop()
	code := m.Run()
	return code, errors.Join(auditAll(context.Background()), audits.report(), answers.report())
}

// findNodes tells the node that stays from the one that stories may take away: the second's name is longer.
func findNodes(ctx context.Context) error {
	var list corev1.NodeList
	if err := cluster.List(ctx, &list); err != nil {
		return err
	}
	var names []string
	for _, node := range list.Items {
		names = append(names, node.Name)
	}
	slices.Sort(names)
	if !clusterIsForeign() && len(names) == 2 {
		nodes.first, nodes.second = names[0], names[1]
	}
	return nil
}

func image(name string) string {
	repository := os.Getenv("IMAGE_REPOSITORY")
	if repository == "" {
		repository = "localhost/snakepit"
	}
	return repository + "/" + name + ":dev"
}

func kubectlPath() string {
	if path := os.Getenv("KUBECTL"); path != "" {
		return path
	}
	return "kubectl"
}

// restricted makes a namespace in which only pods of the restricted standard may run.
func restricted(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		"pod-security.kubernetes.io/enforce": "restricted",
	}}}
}

func files(pattern string) (map[string]string, error) {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	data := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		data[filepath.Base(path)] = string(text)
	}
	return data, nil
}

// startClientPod starts the pod that holds the Python client: restricted, like everything a user would run.
func startClientPod(ctx context.Context) error {
	if err := deleteNamespace(ctx, driverNamespace); err != nil {
		return err
	}
	if err := cluster.Create(ctx, restricted(driverNamespace)); err != nil {
		return err
	}
	data, err := files("driver/*.py")
	if err != nil {
		return err
	}
	meta := metav1.ObjectMeta{Namespace: driverNamespace, Name: "client"}
	if err := cluster.Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Data: data}); err != nil {
		return err
	}
	pod := clientPod(meta, "python3", "-c", "import signal; signal.pause()")
	// Stories may lose another node; the client stays where the cluster's DNS is.
	pod.Spec.Affinity = besideDNS()
	return startPod(ctx, pod)
}

// startPod returns when the pod is Ready.
func startPod(ctx context.Context, pod *corev1.Pod) error {
	if err := createWhenAccountExists(ctx, pod); err != nil {
		return err
	}
	return poll(90*time.Second, func() error {
		if err := cluster.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		if isReady(*pod) {
			return nil
		}
		return fmt.Errorf("client pod is %s", pod.Status.Phase)
	})
}

// clientPod is a pod with the Python client that runs a command beside the files of driver/, which a ConfigMap of its namespace, client, holds.
func clientPod(meta metav1.ObjectMeta, command ...string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: ptr.To[int64](1),
		AutomountServiceAccountToken:  ptr.To(false),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](65532),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name: "client", Image: image("worker"), ImagePullPolicy: corev1.PullIfNotPresent,
			Command: command,
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: ptr.To(false), ReadOnlyRootFilesystem: ptr.To(true),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
			VolumeMounts: []corev1.VolumeMount{{Name: "driver", MountPath: "/driver"}},
		}},
		Volumes: []corev1.Volume{{Name: "driver", VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "client"}},
		}}},
	}}
}

func besideDNS() *corev1.Affinity {
	return &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{
		Weight: 100,
		PodAffinityTerm: corev1.PodAffinityTerm{
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}},
			Namespaces:    []string{metav1.NamespaceSystem}, TopologyKey: corev1.LabelHostname,
		},
	}}}}
}

// createWhenAccountExists waits for the namespace's default service account, which a controller makes.
func createWhenAccountExists(ctx context.Context, pod *corev1.Pod) error {
	return poll(30*time.Second, func() error {
		err := cluster.Create(ctx, pod)
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

func deleteNamespace(ctx context.Context, name string) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := cluster.Delete(ctx, namespace); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return poll(120*time.Second, func() error {
		err := cluster.Get(ctx, client.ObjectKeyFromObject(namespace), namespace)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("namespace %s still exists: %v", name, namespace.Status.Conditions)
	})
}

// poll tries until it works or the limit passes; the last error says what was missing.
func poll(limit time.Duration, try func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %w", limit, err)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// prefixWriter marks what the driver prints on its standard error.
type prefixWriter struct{}

func (prefixWriter) Write(p []byte) (int, error) {
	fmt.Fprintf(os.Stderr, "driver: %s", p)
	return len(p), nil
}
