package leader

import (
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers"
)

// audit sees every group and pod of a namespace come and go, by watches of its own.
type audit struct {
	mu sync.Mutex
	// made are the UIDs of what was created, by owner's UID and, for groups, revision.
	made map[string]map[types.UID]string
	// stray is what was created for an owner that was gone by then.
	stray map[types.UID]string
	there map[types.UID]bool      // groups and pods that are there
	gone  map[types.UID]bool      // pools and groups that are gone
	live  map[types.UID]types.UID // pods that do not end yet, and their groups
	over  []string                // moments at which a group had more than one pod that did not end
}

func watch(t *testing.T, namespace string) *audit {
	t.Helper()
	scheme, err := controllers.NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.NewWithWatch(server.Config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	a := &audit{
		made: map[string]map[types.UID]string{}, stray: map[types.UID]string{}, there: map[types.UID]bool{},
		gone: map[types.UID]bool{}, live: map[types.UID]types.UID{},
	}
	for _, list := range []client.ObjectList{&v1alpha1.WorkerPoolList{}, &v1alpha1.WorkerGroupList{}, &corev1.PodList{}} {
		w, err := c.Watch(t.Context(), list, client.InNamespace(namespace))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for event := range w.ResultChan() {
				a.see(event)
			}
		}()
		t.Cleanup(func() { w.Stop(); <-done })
	}
	return a
}

func (a *audit) see(event apiwatch.Event) {
	obj, ok := event.Object.(client.Object)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if event.Type == apiwatch.Deleted {
		a.gone[obj.GetUID()] = true
	}
	if _, isPool := obj.(*v1alpha1.WorkerPool); isPool {
		return
	}
	labels := obj.GetLabels()
	ownerUID := types.UID(labels[v1alpha1.LabelPoolUID])
	owner := "pool " + labels[v1alpha1.LabelPoolUID] + " revision " + labels[v1alpha1.LabelRevision]
	pod, isPod := obj.(*corev1.Pod)
	if isPod {
		ownerUID = types.UID(labels[v1alpha1.LabelGroupUID])
		owner = "group " + labels[v1alpha1.LabelGroupUID]
	}
	a.there[obj.GetUID()] = event.Type != apiwatch.Deleted
	if a.made[owner] == nil {
		a.made[owner] = map[types.UID]string{}
	}
	_, known := a.made[owner][obj.GetUID()]
	if _, stray := a.stray[obj.GetUID()]; stray || !known && a.gone[ownerUID] {
		a.stray[obj.GetUID()] = obj.GetName()
		return
	}
	a.made[owner][obj.GetUID()] = obj.GetName()
	if !isPod {
		return
	}
	group := types.UID(labels[v1alpha1.LabelGroupUID])
	delete(a.live, pod.UID)
	if event.Type != apiwatch.Deleted && pod.DeletionTimestamp == nil {
		for other, its := range a.live {
			if its == group {
				a.over = append(a.over, fmt.Sprintf("group %s had the pods %s and %s", group, a.made[owner][other], pod.Name))
			}
		}
		a.live[pod.UID] = group
	}
}

// breaks are the invariants that do not hold: each owner's child was made once, and no group had two pods.
func (a *audit) breaks() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	broken := append([]string(nil), a.over...)
	for owner, made := range a.made {
		if len(made) > 1 {
			broken = append(broken, fmt.Sprintf("of %s were made: %v", owner, made))
		}
	}
	return broken
}

// left is how many groups and pods are there, strays too.
func (a *audit) left() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, there := range a.there {
		if there {
			n++
		}
	}
	return n
}

// strays is how many objects arrived after their owner was gone.
func (a *audit) strays() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.stray)
}
