package operator

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// injury is one change that a user makes to an object of the operator's.
type injury struct {
	name string
	kind string
	// patch is a merge patch; empty to delete the object.
	patch string
	// status: the patch is one of the status.
	status bool
	// anew: it is healed by another object, not by the same one.
	anew bool
}

// declared: nothing tells any more that it is the operator's. A condition says so, and it is healed when the user has removed it. A group and
// a pod are known by more than that.
func (i injury) declared() bool {
	return i.kind != "Pod" && i.kind != "WorkerGroup" && (i.name == bare || i.name == foreign)
}

const (
	bare    = "all labels and owner"
	foreign = "owner and pool-uid wrong"
)

// everyKind can be made to each object of the operator's.
func everyKind(kind string) []injury {
	all := []injury{
		{"all labels", kind, `{"metadata":{"labels":null}}`, false, false},
		{"owner", kind, `{"metadata":{"ownerReferences":null}}`, false, false},
		{bare, kind, `{"metadata":{"labels":null,"ownerReferences":null}}`, false, false},
		{"pool-uid wrong", kind, `{"metadata":{"labels":{"snakepit.dev/pool-uid":"x"}}}`, false, false},
		{"pool gone", kind, `{"metadata":{"labels":{"snakepit.dev/pool":null}}}`, false, false},
		{"managed-by wrong", kind, `{"metadata":{"labels":{"app.kubernetes.io/managed-by":"me"}}}`, false, false},
		{foreign, kind, `{"metadata":{"labels":{"snakepit.dev/pool-uid":"x"},"ownerReferences":null}}`, false, false},
		{"deleted", kind, "", false, true},
	}
	return all
}

// ofKind are changes of fields that only this kind has.
var ofKind = map[string][]injury{
	"WorkerPool": {
		{"finalizer", "WorkerPool", `{"metadata":{"finalizers":null}}`, false, false},
		{"status", "WorkerPool", `{"status":null}`, true, false},
	},
	"WorkerGroup": {
		{"finalizer", "WorkerGroup", `{"metadata":{"finalizers":null}}`, false, false},
		{"revision label", "WorkerGroup", `{"metadata":{"labels":{"snakepit.dev/revision":"x"}}}`, false, false},
		{"workers", "WorkerGroup", `{"spec":{"workers":7}}`, false, false},
		{"live settings", "WorkerGroup", `{"spec":{"queue":{"maxLength":3},"calls":{"timeout":"7s"}}}`, false, false},
		{"recycle request", "WorkerGroup", `{"spec":{"recycleRequest":{"id":"mine"}}}`, false, false},
		{"podUID wrong", "WorkerGroup", `{"spec":{"podUID":"x"}}`, false, false},
		{"podUID gone", "WorkerGroup", `{"spec":{"podUID":null}}`, false, false},
		{"nextPod wrong", "WorkerGroup", `{"spec":{"nextPod":7}}`, false, false},
		{"nextPod gone", "WorkerGroup", `{"spec":{"nextPod":null}}`, false, false},
		{"poolName", "WorkerGroup", `{"spec":{"poolName":"other"}}`, false, false},
		{"image", "WorkerGroup", `{"spec":{"image":"registry.example/other:1"}}`, false, true},
		{"revision", "WorkerGroup", `{"spec":{"revision":"x"}}`, false, false},
		{"drain request", "WorkerGroup", `{"spec":{"drainRequest":{"startedAt":"2026-01-01T00:00:00Z","deadline":"2026-01-01T00:00:00Z","cause":"mine"}}}`, false, true},
		{"status", "WorkerGroup", `{"status":null}`, true, false},
	},
	"Pod": {
		{"group-uid gone", "Pod", `{"metadata":{"labels":{"snakepit.dev/group-uid":null}}}`, false, false},
		{"group-uid wrong", "Pod", `{"metadata":{"labels":{"snakepit.dev/group-uid":"x"}}}`, false, false},
		{"group-uid gone and owner", "Pod", `{"metadata":{"labels":{"snakepit.dev/group-uid":null},"ownerReferences":null}}`, false, false},
		{"group-uid wrong and owner", "Pod", `{"metadata":{"labels":{"snakepit.dev/group-uid":"x"},"ownerReferences":null}}`, false, false},
		{"serving gone", "Pod", `{"metadata":{"labels":{"snakepit.dev/serving":null}}}`, false, false},
		{"serving wrong", "Pod", `{"metadata":{"labels":{"snakepit.dev/serving":"maybe"}}}`, false, false},
	},
	"Service": {
		{"selector", "Service", `{"spec":{"selector":{"snakepit.dev/serving":"x"}}}`, false, false},
		{"selector more", "Service", `{"spec":{"selector":{"mine":"x"}}}`, false, false},
		{"port", "Service", `{"spec":{"ports":[{"name":"grpc","port":50052,"targetPort":"grpc"}]}}`, false, false},
		{"ports more", "Service", `{"spec":{"ports":[{"name":"grpc","port":50051,"targetPort":"grpc","appProtocol":"kubernetes.io/h2c"},{"name":"b","port":9}]}}`, false, false},
		{"type", "Service", `{"spec":{"type":"NodePort"}}`, false, false},
	},
	"ServiceAccount":      {{"automount", "ServiceAccount", `{"automountServiceAccountToken":true}`, false, false}},
	"Role":                {{"rules", "Role", `{"rules":[{"apiGroups":[""],"resources":["secrets"],"verbs":["get"]}]}`, false, false}, {"no rules", "Role", `{"rules":null}`, false, false}},
	"RoleBinding":         {{"subjects", "RoleBinding", `{"subjects":[{"kind":"User","name":"me","apiGroup":"rbac.authorization.k8s.io"}]}`, false, false}, {"no subjects", "RoleBinding", `{"subjects":null}`, false, false}},
	"PodDisruptionBudget": {{"minAvailable", "PodDisruptionBudget", `{"spec":{"minAvailable":0}}`, false, false}, {"policy", "PodDisruptionBudget", `{"spec":{"unhealthyPodEvictionPolicy":"IfHealthyBudget"}}`, false, false}, {"maxUnavailable", "PodDisruptionBudget", `{"spec":{"minAvailable":null,"maxUnavailable":1}}`, false, true}},
}

// incidental fields differ between two objects that are the same to everybody.
var incidental = []string{"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "lastTransitionTime", "clusterIP", "clusterIPs", "nodePort", "observedGeneration", "startTime", "startedAt"}

func strip(value any) any {
	switch v := value.(type) {
	case map[string]any:
		kept := map[string]any{}
		for key, child := range v {
			if !slices.Contains(incidental, key) {
				kept[key] = strip(child)
			}
		}
		return kept
	case []any:
		kept := make([]any, len(v))
		for i, child := range v {
			kept[i] = strip(child)
		}
		// Conditions are a map by type: their order says who wrote first.
		slices.SortStableFunc(kept, func(a, b any) int { return strings.Compare(text(a), text(b)) })
		return kept
	}
	return value
}

func text(value any) string {
	b, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// find returns the pool's object of a kind: the only one in the namespace that is not the user's or the cluster's.
func (s *scene) find(kind string) (*unstructured.Unstructured, error) {
	found, err := s.findAll(kind)
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%w of kind %s but %d", errMissing, kind, len(found))
	}
	return &found[0], nil
}

// findAll are the objects of one kind that carry the pool's name.
func (s *scene) findAll(kind string) (found []unstructured.Unstructured, err error) {
	at := slices.IndexFunc(fixture.Kinds, func(k schema.GroupVersionKind) bool { return k.Kind == kind })
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(fixture.Kinds[at].GroupVersion().WithKind(kind + "List"))
	if err := s.client.List(s.ctx, list, client.InNamespace(s.namespace)); err != nil {
		return nil, err
	}
	for _, o := range list.Items {
		if strings.HasPrefix(o.GetName(), s.pool.Name) {
			found = append(found, o)
		}
	}
	return found, nil
}

// inflict makes the change. It returns what the object was.
func (s *scene) inflict(i injury) (*unstructured.Unstructured, error) {
	was, err := s.find(i.kind)
	if err != nil {
		return nil, err
	}
	if i.patch == "" {
		return was, s.client.Delete(s.ctx, was.DeepCopy())
	}
	patch := client.RawPatch(types.MergePatchType, []byte(i.patch))
	if i.status {
		return was, s.client.Status().Patch(s.ctx, was.DeepCopy(), patch, client.FieldOwner("a-user"))
	}
	return was, s.client.Patch(s.ctx, was.DeepCopy(), patch, client.FieldOwner("a-user"))
}

// taken says that the pool's condition tells of an object that is not its own.
func (s *scene) taken() error {
	if err := s.client.Get(s.ctx, client.ObjectKeyFromObject(s.pool), s.pool); err != nil {
		return err
	}
	if c := meta.FindStatusCondition(s.pool.Status.Conditions, v1alpha1.ConditionStalled); c == nil || c.Reason != v1alpha1.ReasonNameTaken {
		return fmt.Errorf("conditions %s", fixture.Conditions(s.pool.Status.Conditions))
	}
	return nil
}

// healed says that everything is as asked and this object is as it was.
func (s *scene) healed(i injury, was *unstructured.Unstructured) error {
	if err := s.asAsked(); err != nil {
		return err
	}
	now, err := s.find(i.kind)
	if err != nil {
		return err
	}
	if same := now.GetUID() == was.GetUID(); same && i.patch == "" {
		return fmt.Errorf("%s was not made anew", was.GetName())
	} else if !same && !i.anew && !i.declared() {
		return fmt.Errorf("%s was replaced", was.GetName())
	}
	if a, b := text(strip(was.Object)), text(strip(now.Object)); a != b && now.GetUID() == was.GetUID() {
		return fmt.Errorf("it is not as it was: %s", difference(a, b))
	}
	return nil
}

func difference(a, b string) string {
	was, now := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(was), len(now)) {
		if was[i] != now[i] {
			return fmt.Sprintf("%q, was %q", strings.TrimSpace(now[i]), strings.TrimSpace(was[i]))
		}
	}
	return fmt.Sprintf("%d lines, were %d", len(now), len(was))
}

// injuries are all, by kind. In the sample each kind has those of its own and every second one of the rest.
func injuries(kind string) []injury {
	all := ofKind[kind]
	if kind == "WorkerPool" {
		return all // its metadata is the user's, but for the finalizer
	}
	for n, i := range everyKind(kind) {
		if everything || i.patch == "" || kind == "Pod" || kind == "WorkerGroup" || uint64(n)%2 == seed%2 {
			all = append(all, i)
		}
	}
	return all
}

// TestHeals is R8: whatever a user changes of what is the operator's is restored, and the pod goes on where it is not what was removed.
func TestHeals(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	injected, healed := 0, 0
	var slowest time.Duration
	t.Run("of", func(t *testing.T) {
		for _, kind := range fixture.Kinds {
			t.Run(kind.Kind, func(t *testing.T) {
				t.Parallel()
				s := begin(t)
				must(t, s.create(2))
				must(t, s.reach())
				for _, i := range injuries(kind.Kind) {
					was, err := s.inflict(i)
					must(t, err)
					if i.declared() {
						must(t, s.wait(limit, i.kind+" is called the user's", s.taken))
						must(t, s.client.Delete(s.ctx, was.DeepCopy()))
					}
					since := time.Now()
					err = s.wait(limit, "healed", func() error { return s.healed(i, was) })
					took := time.Since(since)
					if err == nil {
						_, err = s.quiet(limit)
					}
					mu.Lock()
					injected++
					if err == nil {
						healed++
						slowest = max(slowest, took)
					}
					mu.Unlock()
					if err != nil {
						t.Fatalf("%s %s, %s: %s: %v", i.kind, was.GetName(), i.name, i.patch, err)
					}
				}
				must(t, s.delete())
				must(t, s.reach())
			})
		}
	})
	if injected == 0 {
		return
	}
	share := float64(healed) / float64(injected)
	tell(t, "R8", injected,
		fixture.Figure{Figure: "healed / injected", Value: share, Unit: "ratio", Bound: ">=1", OK: share >= 1},
		clocked(fixture.Figure{Figure: "slowest healing", Value: slowest.Seconds(), Unit: "s", OK: true}))
}

// TestUsersOwnStays is the other half of R8: labels, annotations and a finalizer that a user adds are his, and the operator does not fight him.
func TestUsersOwnStays(t *testing.T) {
	t.Parallel()
	s := begin(t)
	must(t, s.create(2))
	must(t, s.reach())
	for _, kind := range fixture.Kinds {
		object, err := s.find(kind.Kind)
		must(t, err)
		patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"mine":"yes"},"annotations":{"mine":"yes"}}}`))
		must(t, s.client.Patch(s.ctx, object, patch))
	}
	must(t, s.reach())
	must(t, s.scale(3))
	must(t, s.reach())
	for _, kind := range fixture.Kinds {
		object, err := s.find(kind.Kind)
		must(t, err)
		if object.GetLabels()["mine"] != "yes" || object.GetAnnotations()["mine"] != "yes" {
			t.Errorf("%s %s: labels %v, annotations %v", kind.Kind, object.GetName(), object.GetLabels(), object.GetAnnotations())
		}
	}
	if pods, err := s.pods(); err != nil || len(pods) != 1 || pods[0].Labels[v1alpha1.LabelServing] != "true" {
		t.Errorf("pods %v: %v", pods, err)
	}
	must(t, s.delete())
	must(t, s.reach())
}
