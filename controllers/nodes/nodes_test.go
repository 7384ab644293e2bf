package nodes

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"
)

var then = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func node(edits ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "u", ResourceVersion: "7", Labels: map[string]string{"zone": "a"}}}
	n.Status.Images = []corev1.ContainerImage{{Names: []string{"image"}}}
	n.Status.Conditions = []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, LastHeartbeatTime: metav1.NewTime(then)},
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(then), LastHeartbeatTime: metav1.NewTime(then)},
	}
	for _, edit := range edits {
		edit(n)
	}
	return n
}

func cordon(n *corev1.Node) { n.Spec.Unschedulable = true }
func down(status corev1.ConditionStatus, at time.Time) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Conditions[1].Status, n.Status.Conditions[1].LastTransitionTime = status, metav1.NewTime(at)
	}
}
func heartbeat(n *corev1.Node) {
	n.Status.Conditions[0].LastHeartbeatTime, n.Status.Conditions[1].LastHeartbeatTime = metav1.Now(), metav1.Now()
	n.Status.Images = append(n.Status.Images, corev1.ContainerImage{SizeBytes: 1})
	n.Labels["zone"] = "b"
}

func TestChanged(t *testing.T) {
	for _, c := range []struct {
		name    string
		was     *corev1.Node
		now     *corev1.Node
		matters bool
	}{
		{"heartbeat, images, labels", node(), node(heartbeat), false},
		{"cordon", node(), node(cordon), true},
		{"uncordon", node(cordon), node(), true},
		{"not ready", node(), node(down(corev1.ConditionFalse, then)), true},
		{"not ready, then unknown", node(down(corev1.ConditionFalse, then)), node(down(corev1.ConditionUnknown, then.Add(time.Minute))), true},
		{"ready again", node(down(corev1.ConditionUnknown, then)), node(), true},
		{"heartbeat while down", node(down(corev1.ConditionFalse, then)), node(down(corev1.ConditionFalse, then), heartbeat), false},
	} {
		for _, trimmed := range []bool{false, true} {
			was, now := c.was, c.now
			if trimmed {
				was, now = trim(t, was), trim(t, now)
			}
			if got := Changed().Update(event.UpdateEvent{ObjectOld: was, ObjectNew: now}); got != c.matters {
				t.Errorf("%s, trimmed %v: matters %v, want %v", c.name, trimmed, got, c.matters)
			}
		}
	}
}

func trim(t *testing.T, n *corev1.Node) *corev1.Node {
	t.Helper()
	out, err := Trim(n)
	if err != nil {
		t.Fatal(err)
	}
	return out.(*corev1.Node)
}

func TestTrim(t *testing.T) {
	kept := trim(t, node(cordon, down(corev1.ConditionUnknown, then)))
	if kept.Name != "n" || kept.UID != "u" || kept.ResourceVersion != "7" || !DownSince(kept).Equal(then) || !Cordoned(kept, &corev1.Pod{}) {
		t.Errorf("lost what is needed: %+v", kept)
	}
	if kept.Labels != nil || kept.Status.Images != nil || len(kept.Status.Conditions) != 1 {
		t.Errorf("kept what is not needed: %+v", kept)
	}
	if none := trim(t, &corev1.Node{}); !DownSince(none).IsZero() {
		t.Errorf("a node that never said is down since %s", DownSince(none))
	}
}

func TestCordonTolerated(t *testing.T) {
	tolerant := func(list ...corev1.Toleration) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{Tolerations: list}}
	}
	for _, c := range []struct {
		pod  *corev1.Pod
		want bool
	}{
		{tolerant(), true},
		{tolerant(corev1.Toleration{Key: "gpu", Operator: corev1.TolerationOpExists}), true},
		{tolerant(corev1.Toleration{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}), true},
		{tolerant(corev1.Toleration{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists}), false},
		{tolerant(corev1.Toleration{Operator: corev1.TolerationOpExists}), false},
	} {
		if got := Cordoned(node(cordon), c.pod); got != c.want {
			t.Errorf("tolerations %v: cordoned %v, want %v", c.pod.Spec.Tolerations, got, c.want)
		}
	}
	if Cordoned(node(), tolerant()) {
		t.Error("a node that is not cordoned")
	}
}

func TestTakesPods(t *testing.T) {
	for _, c := range []struct {
		name string
		node *corev1.Node
		want bool
	}{
		{"well", node(), true},
		{"cordoned", node(cordon), false},
		{"down", node(down(corev1.ConditionUnknown, then)), false},
		{"never said", &corev1.Node{}, false},
	} {
		if got := TakesPods(c.node); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
