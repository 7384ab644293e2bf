package membership

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// realServer starts etcd and kube-apiserver with the CRDs, and returns a client that may do anything and the
// configuration of one that may do what the operator grants a router, and no more.
func realServer(t *testing.T) (admin *groupAdmin, router *rest.Config) {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("KUBEBUILDER_ASSETS is not set; for this test run: KUBEBUILDER_ASSETS=$(go -C hack/local-cluster run . assets) go test ./router/membership")
	}
	server := &envtest.Environment{CRDDirectoryPaths: []string{filepath.Join("..", "..", "config", "crd", "bases")}, ErrorIfCRDPathMissing: true}
	config, err := server.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	client, err := groupClient(config)
	if err != nil {
		t.Fatal(err)
	}
	const user = "system:serviceaccount:default:counter"
	objects := kubernetes.NewForConfigOrDie(config).RbacV1()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "counter"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"snakepit.dev"}, Resources: []string{"workergroups"}, ResourceNames: []string{testGroup}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{"snakepit.dev"}, Resources: []string{"workergroups/status"}, ResourceNames: []string{testGroup}, Verbs: []string{"patch"}},
	}}
	if _, err := objects.Roles("default").Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "counter"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "counter"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}}
	if _, err := objects.RoleBindings("default").Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	router = rest.CopyConfig(config)
	router.Impersonate = rest.ImpersonationConfig{UserName: user}
	return &groupAdmin{t: t, client: client}, router
}

// groupAdmin does what the operator does.
type groupAdmin struct {
	t      *testing.T
	client rest.Interface
}

func (a *groupAdmin) create() *v1alpha1.WorkerGroup {
	a.t.Helper()
	group := liveGroup("", 0)
	group.Namespace = "default"
	created := &v1alpha1.WorkerGroup{}
	if err := a.client.Post().Namespace("default").Resource(groupResource).Body(group).Do(a.t.Context()).Into(created); err != nil {
		a.t.Fatal(err)
	}
	return created
}

func (a *groupAdmin) get() (*v1alpha1.WorkerGroup, error) {
	group := &v1alpha1.WorkerGroup{}
	err := a.client.Get().Namespace("default").Resource(groupResource).Name(testGroup).Do(context.Background()).Into(group)
	return group, err
}

func (a *groupAdmin) patch(kind types.PatchType, subresource, manager, body string) {
	a.t.Helper()
	request := a.client.Patch(kind).Namespace("default").Resource(groupResource).Name(testGroup).SubResource(subresource).Body([]byte(body))
	if manager != "" {
		request = request.Param("fieldManager", manager)
	}
	if err := request.Do(a.t.Context()).Error(); err != nil {
		a.t.Fatal(err)
	}
}

func (a *groupAdmin) delete() {
	a.t.Helper()
	if err := a.client.Delete().Namespace("default").Resource(groupResource).Name(testGroup).Do(a.t.Context()).Error(); err != nil {
		a.t.Fatal(err)
	}
}

// refusedWrites counts the patches that the API server refused.
type refusedWrites struct {
	atomic.Int32
	next http.RoundTripper
}

func (r *refusedWrites) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := r.next.RoundTrip(request)
	if err == nil && request.Method == http.MethodPatch && response.StatusCode >= 400 {
		r.Add(1)
	}
	return response, err
}

func TestOnARealAPIServer(t *testing.T) {
	admin, config := realServer(t)
	t.Run("the grant is for one name only", func(t *testing.T) { grantIsForOneName(t, config) })
	t.Run("one group, two owners, one end", func(t *testing.T) { groupsLife(t, admin, rest.CopyConfig(config)) })
}

// With no more than the operator grants, the router follows its group and shares its status with the operator; when the
// group is gone, nothing that the router writes makes it again.
func groupsLife(t *testing.T, admin *groupAdmin, config *rest.Config) {
	created := admin.create()
	refused := &refusedWrites{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { refused.next = next; return refused })
	adopter, log := &adopterLog{}, &lines{}
	source, err := NewKubernetes(KubernetesConfig{REST: config, Namespace: "default", Name: testGroup, StateDir: t.TempDir(), Adopter: adopter, Log: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	eventually(t, "adoption", func() bool { return adopter.count() == 1 })
	if first := adopter.last(); first.stale || first.group.UID != created.UID {
		t.Errorf("adopted %+v", first)
	}
	admin.patch(types.MergePatchType, "", "", `{"spec":{"workers":5}}`)
	eventually(t, "adoption by watch", func() bool { return adopter.last().group.Spec.Workers == 5 })

	admin.patch(types.ApplyPatchType, "status", v1alpha1.FieldManagerOperator, `{"apiVersion":"snakepit.dev/v1alpha1","kind":"WorkerGroup","status":{"podName":"pod",
		"conditions":[{"type":"Ready","status":"False","reason":"Progressing","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`)
	given := facts(1, 0, 0)
	given.Router.Workers = []v1alpha1.WorkerStatus{{Slot: 0, State: v1alpha1.WorkerReady}, {Slot: 1, State: v1alpha1.WorkerFailed, LastError: "ImportError\n\x1b"}}
	source.Report(given)
	eventually(t, "the router's status beside the operator's", func() bool {
		group, err := admin.get()
		return err == nil && group.Status.Router != nil && len(group.Status.Router.Workers) == 2 && group.Status.PodName == "pod" &&
			meta.FindStatusCondition(group.Status.Conditions, v1alpha1.ConditionReady) != nil &&
			meta.FindStatusCondition(group.Status.Conditions, v1alpha1.ConditionWorkersReady) != nil
	})
	// The operator leaves a field out: what the router owns stays.
	admin.patch(types.ApplyPatchType, "status", v1alpha1.FieldManagerOperator, `{"apiVersion":"snakepit.dev/v1alpha1","kind":"WorkerGroup","status":{
		"conditions":[{"type":"Ready","status":"True","reason":"RouterReady","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`)
	given.Router.Workers = given.Router.Workers[:1]
	source.Report(given)
	eventually(t, "a list entry that is no longer applied goes", func() bool {
		group, err := admin.get()
		return err == nil && len(group.Status.Router.Workers) == 1 && group.Status.PodName == "" &&
			meta.IsStatusConditionTrue(group.Status.Conditions, v1alpha1.ConditionReady)
	})

	admin.delete()
	eventually(t, "the end is told", func() bool { return log.containing("is gone") == 1 })
	source.Report(facts(2, 0, 0))
	eventually(t, "the write is refused", func() bool { return refused.Load() == 1 })
	if group, err := admin.get(); !apierrors.IsNotFound(err) {
		t.Errorf("the group lives again: %+v, %v", group, err)
	}
	if log.containing("may not") != 0 {
		t.Errorf("refused: %v", log.all)
	}
}

// Without this refusal the other test would say nothing about RBAC.
func grantIsForOneName(t *testing.T, config *rest.Config) {
	adopter, log := &adopterLog{}, &lines{}
	source, err := NewKubernetes(KubernetesConfig{REST: config, Namespace: "default", Name: "another", Adopter: adopter, Log: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx) }()
	eventually(t, "the refusal is told", func() bool { return log.containing("may not read its WorkerGroup") == 1 })
	cancel()
	if err := <-ended; err != nil || adopter.count() != 0 {
		t.Errorf("%v, %d adoptions", err, adopter.count())
	}
}
