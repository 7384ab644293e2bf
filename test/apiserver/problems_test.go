package apiserver

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/workergroup/plan"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
)

const (
	// failureWindow is how long each problem is watched. The stand-in's kubelet passes through its statuses five times a second, which real
	// ones take minutes for.
	failureWindow = 3 * time.Second
	// healBound of R11, in seconds.
	healBound = 60
)

// A problem that the kubelet or the router tells of.
type problem struct {
	name, image, reason string
	stalled             bool
	says                []string
	// bySpec heals by another image in the spec; else the cause goes away beside it.
	bySpec bool
}

var problems = []problem{
	{"bad image", standin.ImageSays("image-missing"), v1alpha1.ReasonImagePullFailed, false, []string{"the registry does not have it: check name and tag"}, false},
	{"typo in image", standin.ImageSays("image-missing"), v1alpha1.ReasonImagePullFailed, false, []string{"image registry.example/says-image-missing:1 of container worker"}, true},
	{"private image", standin.ImageSays("image-refused"), v1alpha1.ReasonImagePullFailed, false, []string{"the registry refuses access", "imagePullSecrets in spec.template.spec"}, false},
	{"image of another platform", standin.ImageSays("image-platform"), v1alpha1.ReasonWrongArchitecture, true, []string{"not built for the processor of node node-1", "build it for that platform"}, true},
	{"exec format", standin.ImageSays("exec-format"), v1alpha1.ReasonWrongArchitecture, true, []string{"not built for the processor of node node-1"}, true},
	{"full image store", standin.ImageSays("image-disk-full"), v1alpha1.ReasonImagePullFailed, false, []string{"the disk of its node is full"}, false},
	{"full disk", standin.ImageSays("disk-full"), v1alpha1.ReasonContainerStartFailed, true, []string{"The disk of node node-1 is full: free space there"}, false},
	{"unschedulable", standin.ImageSays("unschedulable"), v1alpha1.ReasonUnschedulable, false, []string{"Insufficient memory", "Lower the requests"}, false},
	{"missing secret", standin.ImageSays("secret-missing"), v1alpha1.ReasonContainerConfigInvalid, false, []string{`secret "database" not found`, "Make it"}, false},
	{"missing volume", standin.ImageSays("volume-missing"), v1alpha1.ReasonPodPending, false, []string{"a volume cannot be mounted (kubectl describe pod"}, false},
	{"named user", standin.ImageSays("named-user"), v1alpha1.ReasonContainerConfigInvalid, false, []string{"non-numeric user (app)", "Set a number other than 0 as securityContext.runAsUser"}, true},
	{"no python", standin.ImageSays("no-python"), v1alpha1.ReasonContainerStartFailed, true, []string{"executable file not found", "The image must hold python3"}, true},
	{"out of memory", standin.ImageSays("out-of-memory"), v1alpha1.ReasonOutOfMemory, true, []string{"container worker", "raise the limit in spec.template"}, false},
	{"container crash loop", standin.ImageSays("crash-loop"), v1alpha1.ReasonContainerCrashLooping, true, []string{"exit code 1", "-c worker --previous"}, false},
	{"evicted", standin.ImageSays("evicted"), v1alpha1.ReasonPodEvicted, false, []string{`EmptyDir volume "snakepit-home" exceeds the limit`, "write less"}, true},
	{"disk pressure", standin.ImageSays("node-disk-pressure"), v1alpha1.ReasonPodEvicted, false, []string{"low on resource: ephemeral-storage", "It is replaced"}, true},
	{"node refuses", standin.ImageSays("node-refuses"), v1alpha1.ReasonPodFailed, false, []string{"enough resource: cpu", "It is replaced"}, true},
	{"import error", "registry.example/" + standin.ImageBroken + ":1", v1alpha1.ReasonAdapterFailed, true, []string{"ModuleNotFoundError at app.py:3", "kubectl logs"}, true},
	{"hanging setup", "registry.example/" + standin.ImageHanging + ":1", v1alpha1.ReasonWorkersFailing, false, []string{"/0: STARTUP_TIMEOUT", "make setup faster, or raise the limit"}, true},
	{"crash loop of workers", "registry.example/" + standin.ImageLooping + ":1", v1alpha1.ReasonCrashLooping, true, []string{"EXITED exit code 3", "kubectl logs"}, true},
}

// R11: each problem is told with its pod, its cause and what to do, in one text that does not change while the problem lasts; no further pod is
// made meanwhile; and the pool heals by itself when the cause is gone.
func TestProblems(t *testing.T) {
	s := begin(t)
	pools := map[string]*v1alpha1.WorkerPool{}
	for i, p := range problems {
		pools[p.name] = s.pool(fmt.Sprintf("sick-%d", i), 1, func(pool *v1alpha1.WorkerPool) { pool.Spec.Image = p.image })
	}
	for _, p := range problems {
		s.expect(pools[p.name], v1alpha1.ConditionReady, metav1.ConditionFalse, p.reason, "")
	}
	began := time.Now()
	fixture.Eventually(t, limit, "the failure window", func() error {
		if time.Since(began) < failureWindow {
			return fmt.Errorf("not over")
		}
		return nil
	})
	for _, p := range problems {
		t.Run(p.name, func(t *testing.T) { s.told(t, p, pools[p.name]) })
	}
	extra := 0
	for _, p := range problems {
		extra += max(s.recorder.Pods(pools[p.name].Name)-allowedPods(pools[p.name]), 0)
	}
	healing := time.Now()
	s.must(server.Client.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: standin.CauseGone}}))
	for _, p := range problems {
		if p.bySpec {
			s.change(pools[p.name], image("works"))
		}
	}
	for _, p := range problems {
		s.ready(pools[p.name])
		if c := meta.FindStatusCondition(pools[p.name].Status.Conditions, v1alpha1.ConditionStalled); c != nil {
			t.Errorf("%s: healed, and still Stalled: %s", p.name, c.Message)
		}
	}
	s.healed("problems of pods", len(problems), time.Since(healing))
	s.must(fixture.AppendFigures([]fixture.Figure{{ID: "R11", Figure: "pods beyond one a group and back-off step", Value: float64(extra), Unit: "pods", Bound: "<=0",
		OK: extra == 0, Runs: len(problems), Command: "make test-apiserver"}}))
}

// told looks at what the pool says of its problem, and what it said before.
func (s *scene) told(t *testing.T, p problem, pool *v1alpha1.WorkerPool) {
	s.must(s.get(pool))
	ready := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReady)
	if ready.Status != metav1.ConditionFalse || ready.Reason != p.reason {
		t.Fatalf("conditions: %s", fixture.Conditions(pool.Status.Conditions))
	}
	for _, text := range append(p.says, pool.Name+"-") {
		if !strings.Contains(ready.Message, text) {
			t.Errorf("the message does not say %q: %s", text, ready.Message)
		}
	}
	stalled := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionStalled) != nil
	reconciling := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReconciling) != nil
	if stalled != p.stalled || reconciling == p.stalled {
		t.Errorf("Stalled %v, Reconciling %v; want Stalled %v and else Reconciling: %s", stalled, reconciling, p.stalled, fixture.Conditions(pool.Status.Conditions))
	}
	word, last := "InProgress", s.recorder.Kstatus(pool.Name)
	if p.stalled {
		word = "Failed"
	}
	if last[len(last)-1] != word {
		t.Errorf("kstatus read %v, want %s in the end", last, word)
	}
	made := s.recorder.Pods(pool.Name)
	if most := allowedPods(pool); made > most {
		t.Errorf("%d pods were made in %s, want at most %d", made, time.Since(pool.CreationTimestamp.Time), most)
	}
	about := 0
	said := s.recorder.Said(pool.Name, v1alpha1.ConditionReady)
	for _, one := range said {
		if strings.HasPrefix(one, "False/"+p.reason+":") {
			about++
		}
	}
	if about > made {
		t.Errorf("the problem was told %d times of %d pods, want once of each in one text:\n%s", about, made, strings.Join(said, "\n"))
	}
}

// allowedPods of a failing pool: its group's one, and one more for each step of the back-off.
func allowedPods(pool *v1alpha1.WorkerPool) int {
	return 1 + int(time.Since(pool.CreationTimestamp.Time)/plan.FailedPodRetry)
}

// healed reports a figure of R11.
func (s *scene) healed(what string, runs int, took time.Duration) {
	s.t.Helper()
	if took > healBound*time.Second {
		s.t.Errorf("%s healed after %s, want at most %d s", what, took, healBound)
	}
	s.must(fixture.AppendFigures([]fixture.Figure{{ID: "R11", Figure: "heal, " + what, Value: took.Seconds(), Unit: "s", Bound: fmt.Sprintf("<=%d", healBound),
		OK: took <= healBound*time.Second, Runs: runs, Command: "make test-apiserver"}}))
}

// A refusal is made in a namespace, and taken back.
type refusing struct {
	name   string
	says   []string
	refuse func(*scene) (undo func())
}

var refusals = []refusing{
	{"quota", []string{"exceeded quota: none, requested: pods=1"}, func(s *scene) func() {
		none := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}
		quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "none"}, Spec: corev1.ResourceQuotaSpec{Hard: none}}
		s.must(server.Client.Create(s.ctx, quota))
		quota.Status.Hard, quota.Status.Used = none, none
		s.must(server.Client.Status().Update(s.ctx, quota))
		return func() { s.must(server.Client.Delete(s.ctx, quota)) }
	}},
	{"policy", []string{"ValidatingAdmissionPolicy", "images come from registry.corp"}, (*scene).policy},
	{"webhook", []string{`admission webhook "pods.example.com" denied the request: pods need the label team`}, func(s *scene) func() {
		hook := httptest.NewTLSServer(http.HandlerFunc(deny))
		undo := s.webhook(hook.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw}))
		return func() { undo(); hook.Close() }
	}},
	{"webhook that is down", []string{`failed calling webhook "pods.example.com"`, "connection refused"}, func(s *scene) func() {
		down := httptest.NewTLSServer(http.NotFoundHandler())
		down.Close()
		return s.webhook(down.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: down.Certificate().Raw}))
	}},
}

// R11: what the API server refuses is told in its own words and heals without anybody deleting something.
func TestRefusals(t *testing.T) {
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			s := begin(t)
			undo := r.refuse(s)
			pool := s.pool("refused", 1)
			for _, text := range append(r.says, "the API server refused pod refused-", "it is tried again") {
				s.expect(pool, v1alpha1.ConditionStalled, metav1.ConditionTrue, v1alpha1.ReasonPodRejected, text)
				s.expect(pool, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonPodRejected, text)
			}
			s.expectEvent(v1alpha1.ReasonPodRejected, "")
			undo()
			healing := time.Now()
			s.ready(pool)
			s.healed(r.name, 1, time.Since(healing))
			if n := s.recorder.Pods(pool.Name); n != 1 {
				t.Errorf("%d pods were made, want 1", n)
			}
		})
	}
}

// onlyHere selects the scene's namespace.
func (s *scene) onlyHere() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": s.namespace}}
}

func (s *scene) policy() (undo func()) {
	pods := []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
	}}}
	name := metav1.ObjectMeta{Name: "images." + s.namespace}
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: name, Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: pods, NamespaceSelector: s.onlyHere()},
		Validations: []admissionregistrationv1.Validation{{
			Expression: "object.spec.containers.all(c, c.image.startsWith('registry.corp/'))", Message: "images come from registry.corp",
		}},
	}}
	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: name, Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName: policy.Name, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
	}}
	s.must(server.Client.Create(s.ctx, policy))
	s.must(server.Client.Create(s.ctx, binding))
	s.refusesPods()
	return func() {
		s.must(server.Client.Delete(s.ctx, binding))
		s.must(server.Client.Delete(s.ctx, policy))
	}
}

func (s *scene) webhook(url string, authority []byte) (undo func()) {
	hook := &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "pods." + s.namespace}, Webhooks: []admissionregistrationv1.ValidatingWebhook{{
		Name:         "pods.example.com",
		ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: authority},
		Rules: []admissionregistrationv1.RuleWithOperations{{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
		}},
		NamespaceSelector: s.onlyHere(), FailurePolicy: ptr.To(admissionregistrationv1.Fail),
		SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
	}}}
	s.must(server.Client.Create(s.ctx, hook))
	s.refusesPods()
	return func() { s.must(server.Client.Delete(s.ctx, hook)) }
}

// refusesPods waits until the API server has taken up a policy or webhook.
func (s *scene) refusesPods() {
	s.t.Helper()
	fixture.Eventually(s.t, limit, "pods are refused", func() error {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "probe"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		if server.Client.Create(s.ctx, pod, client.DryRunAll) == nil {
			return fmt.Errorf("a pod was accepted")
		}
		return nil
	})
}

// deny is an admission webhook that refuses all, with a code of its own.
func deny(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	raw, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(raw, &review)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Result: &metav1.Status{Code: http.StatusTeapot, Message: "pods need the label team"}}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review)
}
