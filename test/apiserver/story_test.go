package apiserver

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/test/fixture"
	"github.com/snakepit-k8s/snakepit/test/fixture/standin"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// A whole life as its Events tell it, and kstatus. -update rewrites testdata/life.txt.
func TestLifeStory(t *testing.T) {
	s := begin(t)
	story, seen := "", map[types.UID]bool{}
	tell := func(step string, events int) {
		t.Helper()
		story += step + "\n" + s.newEvents(seen, events)
	}
	pool := s.pool("story", 2, func(p *v1alpha1.WorkerPool) { p.Spec.Drain.Timeout = nil })
	s.ready(pool)
	tell("A pool with two workers is created.", 3)
	s.change(pool, func(p *v1alpha1.WorkerPool) { p.Spec.Workers = 3 })
	s.ready(pool)
	tell("It is scaled to three.", 3)
	pod := s.onlyPod(pool)
	s.annotate(&pod, standin.AnnotationDeaths, "1")
	tell("A worker dies.", 2)
	s.annotate(pool, v1alpha1.AnnotationRecycle, "leak in 1.2")
	tell("Its workers are recycled.", 2)
	s.change(pool, image("works-better"))
	s.ready(pool)
	tell("Another image: drain, end, successor.", 6)
	s.must(server.Client.Delete(s.ctx, pool))
	s.gone(pool)
	tell("It is deleted.", 3)
	// Creation, scaling and the other image are under way before they are done; the recycling may be.
	read := strings.Join(s.recorder.Kstatus(pool.Name), ", ")
	if !regexp.MustCompile(`^(InProgress, Current, ){3,4}Terminating$`).MatchString(read) {
		t.Errorf("kstatus read %s", read)
	}
	path := filepath.Join("testdata", "life.txt")
	if *update {
		s.must(os.MkdirAll("testdata", 0o755))
		s.must(os.WriteFile(path, []byte(story), 0o644))
	}
	want, err := os.ReadFile(path)
	s.must(err)
	if story != string(want) {
		t.Errorf("the life reads:\n%s\nwant (go test ./test/apiserver -run TestLifeStory -update):\n%s", story, want)
	}
}

// order is that of causes. Two controllers tell of one life; what they say in the same moment has no order of its own.
var order = []string{
	v1alpha1.EventDrainStarted, v1alpha1.EventGroupDeleted, v1alpha1.EventPodDeleted, v1alpha1.EventGroupCreated,
	v1alpha1.EventPodCreated, v1alpha1.EventGroupUpdated, v1alpha1.EventWorkerCrashed, v1alpha1.EventSessionLost, v1alpha1.EventRecycled, v1alpha1.EventWorkerStarted, v1alpha1.EventPoolReady,
}

// newEvents waits for so many Events that were not seen before, and returns all of them as lines without what differs between runs.
func (s *scene) newEvents(seen map[types.UID]bool, n int) string {
	s.t.Helper()
	var fresh []eventsv1.Event
	fixture.Eventually(s.t, limit, fmt.Sprintf("%d Events", n), func() error {
		var list eventsv1.EventList
		if err := server.Client.List(s.ctx, &list, client.InNamespace(s.namespace)); err != nil {
			return err
		}
		fresh = slices.DeleteFunc(list.Items, func(e eventsv1.Event) bool { return seen[e.UID] || e.ReportingController != "snakepit-operator" })
		if len(fresh) < n {
			return fmt.Errorf("%d: %s", len(fresh), eventLines(fresh))
		}
		return nil
	})
	for _, e := range fresh {
		seen[e.UID] = true
		if e.Related == nil {
			s.t.Errorf("the Event %s: %s relates to nothing", e.Reason, e.Note)
		}
		if e.Series != nil {
			s.t.Errorf("the Event %s was told %d times: %s", e.Reason, e.Series.Count, e.Note)
		}
	}
	return eventLines(fresh)
}

func eventLines(list []eventsv1.Event) string {
	sort.SliceStable(list, func(i, j int) bool {
		return slices.Index(order, list[i].Reason) < slices.Index(order, list[j].Reason)
	})
	text := ""
	for _, e := range list {
		related := ""
		if e.Related != nil {
			related = ", with " + e.Related.Kind + " " + e.Related.Name
		}
		text += fmt.Sprintf("  %-7s %s (%s %s%s): %s\n", e.Type, e.Reason, e.Regarding.Kind, e.Regarding.Name, related, e.Note)
	}
	text = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:]+Z`).ReplaceAllString(text, "TIME")
	text = regexp.MustCompile(`(story)-[a-z0-9]{8}\b`).ReplaceAllString(text, "$1-REVISION")
	// A pod's name may hold a part of its group's UID.
	return regexp.MustCompile(`(REVISION-\d+)-[0-9a-f]{5}-`).ReplaceAllString(text, "$1-")
}

// annotate changes nothing else: an update through Go types would write 300s as 5m0s, which is another generation.
func (s *scene) annotate(obj client.Object, key, value string) {
	s.t.Helper()
	s.must(server.Client.Patch(s.ctx, obj, mergePatch(s.t, map[string]any{"metadata": map[string]any{"annotations": map[string]any{key: value}}})))
}

// countWrites counts the requests of an operator that change an object whose path has the word.
func countWrites(word string) (*atomic.Int64, func(http.RoundTripper) http.RoundTripper) {
	n := &atomic.Int64{}
	return n, func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method != http.MethodGet && strings.Contains(r.URL.Path, word) {
				n.Add(1)
			}
			return next.RoundTrip(r)
		})
	}
}

// Looking again later at what has not changed writes nothing and changes no message, whatever the time.
func TestSameLookLaterIsSilent(t *testing.T) {
	s := begin(t)
	s.stop()
	clock := clocktesting.NewFakePassiveClock(time.Now())
	writes, wrap := countWrites("calm-")
	var err error
	s.operator, err = fixture.StartOperator(server.Config, fixture.OperatorOptions{Namespace: s.namespace, WrapTransport: wrap, Clock: clock})
	s.must(err)
	fine, sick, broken := s.pool("calm-fine", 2), s.pool("calm-sick", 1, says("secret-missing")), s.pool("calm-broken", 1, image(standin.ImageBroken))
	s.ready(fine)
	s.expect(sick, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonContainerConfigInvalid, "")
	s.expect(broken, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonAdapterFailed, "kubectl logs")
	s.probe("settled")
	before := writes.Load()
	for i, step := range []time.Duration{0, time.Second, time.Minute, time.Hour} {
		clock.SetTime(clock.Now().Add(step))
		for _, pool := range []*v1alpha1.WorkerPool{fine, sick, broken} {
			pod := s.onlyPod(pool)
			s.annotate(&pod, "test.snakepit.dev/look", fmt.Sprint(i))
			s.annotate(pool, "test.snakepit.dev/look", fmt.Sprint(i))
		}
		s.probe(fmt.Sprintf("after-%d", i))
		if n := writes.Load() - before; n != 0 {
			t.Errorf("%d writes %s later, want none", n, step)
		}
	}
}

func says(problem string) func(*v1alpha1.WorkerPool) {
	return func(p *v1alpha1.WorkerPool) { p.Spec.Image = standin.ImageSays(problem) }
}

// probe returns when the operator has worked off what happened before: a pool made now is through.
func (s *scene) probe(name string) {
	s.t.Helper()
	pool := s.pool(name, 1)
	s.ready(pool)
}

// Load costs the operator at most one write for each of the router's, and the router writes load at most once a minute.
func TestWritesUnderLoad(t *testing.T) {
	s := beginAlone(t)
	writes, wrap := countWrites("workerpools/busy-")
	var err error
	s.operator, err = fixture.StartOperator(server.Config, fixture.OperatorOptions{Namespace: s.namespace, WrapTransport: wrap})
	s.must(err)
	t.Cleanup(s.stop)
	pool := s.pool("busy-pool", 1)
	pod := s.newPod(pool, "")
	s.kubeletSays(pod, corev1.ConditionTrue)
	s.routerSays(pool, pod.UID, 0)
	s.ready(pool)
	before := writes.Load()
	const words = 20
	for i := range int64(words) {
		s.routerSays(pool, pod.UID, i+1)
	}
	fixture.Eventually(t, limit, "the last word", func() error {
		if err := s.get(pool); err != nil {
			return err
		}
		if pool.Status.BusyWorkers != words {
			return fmt.Errorf("%d busy", pool.Status.BusyWorkers)
		}
		return nil
	})
	if n := writes.Load() - before; n > words {
		t.Errorf("%d writes of the operator for %d of the router", n, words)
	}
}

// The router's word counts only while its pod is the group's current, Ready one.
func TestRoutersWord(t *testing.T) {
	s := beginAlone(t)
	s.start()
	t.Cleanup(s.stop)
	pool := s.pool("word", 1)
	pod := s.newPod(pool, "")
	s.kubeletSays(pod, corev1.ConditionTrue)
	s.routerSays(pool, "another-pod", 0)
	s.expect(pool, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonRouterStarting, "has not reported yet")
	s.kubeletSays(pod, corev1.ConditionFalse)
	s.expect(pool, v1alpha1.ConditionRouterReady, metav1.ConditionFalse, v1alpha1.ReasonRouterStarting, "waits for its first worker")
	s.routerSays(pool, pod.UID, 0)
	s.expect(pool, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonRouterUnreachable, "router of pod "+pod.Name+" does not answer")
	s.kubeletSays(pod, corev1.ConditionTrue)
	s.ready(pool)
	s.must(server.Client.Delete(s.ctx, pod, client.GracePeriodSeconds(0)))
	next := s.newPod(pool, pod.UID)
	s.kubeletSays(next, corev1.ConditionTrue)
	s.expect(pool, v1alpha1.ConditionWorkersAvailable, metav1.ConditionFalse, v1alpha1.ReasonRouterStarting, "has not reported yet")
	if pool.Status.ReadyWorkers != 0 {
		t.Errorf("%d workers are ready by the word of a router that is gone", pool.Status.ReadyWorkers)
	}
	s.routerSays(pool, next.UID, 0)
	s.ready(pool)
}

// newPod waits for the pool's pod that the group names, other than the old one.
func (s *scene) newPod(pool *v1alpha1.WorkerPool, old types.UID) *corev1.Pod {
	s.t.Helper()
	var found corev1.Pod
	fixture.Eventually(s.t, limit, "a pod that the group names", func() error {
		for _, pod := range s.pods(pool) {
			if pod.UID != old && s.group(pool).Spec.PodUID == pod.UID {
				found = pod
				return nil
			}
		}
		return fmt.Errorf("none")
	})
	return &found
}

func (s *scene) kubeletSays(pod *corev1.Pod, ready corev1.ConditionStatus) {
	s.t.Helper()
	fixture.Eventually(s.t, limit, "the pod's status", func() error {
		if err := s.get(pod); err != nil {
			return err
		}
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
		pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: v1alpha1.RouterContainer, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		err := server.Client.Status().Update(s.ctx, pod)
		if apierrors.IsConflict(err) {
			return err
		}
		s.must(err)
		return nil
	})
}

// routerSays has a router report one ready worker, and how many are busy.
func (s *scene) routerSays(pool *v1alpha1.WorkerPool, podUID types.UID, busy int64) {
	s.t.Helper()
	group := s.group(pool)
	u := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"router": map[string]any{
		"podUID": string(podUID), "version": "test", "observedGeneration": group.Generation, "readyWorkers": int64(1),
		"busyWorkers": busy, "sessions": int64(0), "workers": []any{map[string]any{"slot": int64(0), "state": string(v1alpha1.WorkerReady)}},
	}}}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkerGroup"))
	u.SetNamespace(group.Namespace)
	u.SetName(group.Name)
	u.SetUID(group.UID)
	s.must(server.Client.Status().Apply(s.ctx, client.ApplyConfigurationFromUnstructured(u), client.ForceOwnership, client.FieldOwner(v1alpha1.FieldManagerRouter)))
}
