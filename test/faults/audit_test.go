package faults

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// kinds is everything that a pool is made of, the pool itself included.
var kinds = []schema.GroupVersionKind{
	v1alpha1.GroupVersion.WithKind("WorkerPool"),
	v1alpha1.GroupVersion.WithKind("WorkerGroup"),
	corev1.SchemeGroupVersion.WithKind("Pod"),
	corev1.SchemeGroupVersion.WithKind("Service"),
	corev1.SchemeGroupVersion.WithKind("ServiceAccount"),
	rbacv1.SchemeGroupVersion.WithKind("Role"),
	rbacv1.SchemeGroupVersion.WithKind("RoleBinding"),
}

// life is one object from its creation to its end, in revisions of the store: they order all kinds.
type life struct {
	kind  string
	name  string
	uid   types.UID
	owner types.UID
	born  uint64
	// died is 0 while it lives.
	died uint64
}

func (l *life) String() string { return l.kind + " " + l.name }

// audit watches the whole API server beside the operator, and remembers every object that ever was.
type audit struct {
	mu     sync.Mutex
	lives  map[string]map[types.UID]*life
	broken error
	done   sync.WaitGroup
	stop   context.CancelFunc
}

func startAudit(config *rest.Config) (*audit, error) {
	c, err := client.NewWithWatch(config, client.Options{})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &audit{lives: map[string]map[types.UID]*life{}, stop: stop}
	for _, kind := range kinds {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		w, err := c.Watch(ctx, list)
		if err != nil {
			stop()
			return nil, err
		}
		a.done.Go(func() { a.follow(ctx, kind.Kind, w) })
	}
	return a, nil
}

// Stop ends the watches. It returns an error when one of them ended before: what it had not seen is not known.
func (a *audit) Stop() error {
	a.stop()
	a.done.Wait()
	return a.fault()
}

func (a *audit) fault() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.broken
}

func (a *audit) follow(ctx context.Context, kind string, w watch.Interface) {
	defer w.Stop()
	for event := range w.ResultChan() {
		object, ok := event.Object.(*metav1.PartialObjectMetadata)
		if !ok && ctx.Err() != nil {
			return // Stop cut the stream
		}
		if !ok {
			a.fail(fmt.Errorf("audit of %s: %v", kind, event.Object))
			return
		}
		if err := a.note(kind, event.Type, object); err != nil {
			a.fail(err)
			return
		}
	}
	if ctx.Err() == nil {
		a.fail(fmt.Errorf("audit of %s: the watch ended", kind))
	}
}

func (a *audit) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.broken = err
}

func (a *audit) note(kind string, what watch.EventType, object *metav1.PartialObjectMetadata) error {
	revision, err := strconv.ParseUint(object.ResourceVersion, 10, 64)
	if err != nil {
		return fmt.Errorf("audit of %s %s: revision %q: %w", kind, object.Name, object.ResourceVersion, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	inside := a.lives[object.Namespace]
	if inside == nil {
		inside = map[types.UID]*life{}
		a.lives[object.Namespace] = inside
	}
	l := inside[object.UID]
	if l == nil {
		l = &life{kind: kind, name: object.Name, uid: object.UID, born: revision}
		inside[object.UID] = l
	}
	if owner := ownerOf(kind, object); owner != "" {
		l.owner = owner
	}
	if what == watch.Deleted {
		l.died = revision
	}
	return nil
}

// ownerOf is the pool or the group that an object belongs to, by its reference or else by its labels.
func ownerOf(kind string, object metav1.Object) types.UID {
	if by := metav1.GetControllerOf(object); by != nil {
		return by.UID
	}
	if kind == "Pod" {
		return types.UID(object.GetLabels()[v1alpha1.LabelGroupUID])
	}
	return types.UID(object.GetLabels()[v1alpha1.LabelPoolUID])
}

// seen is a copy of all lives in a namespace, in order of birth.
func (a *audit) seen(namespace string) []life {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []life
	for _, l := range a.lives[namespace] {
		all = append(all, *l)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].born < all[j].born })
	return all
}

// creates counts how often each name was made; pools are the user's and do not count, nor does what has no owner.
func creates(lives []life) map[string]int {
	made := map[string]int{}
	for _, l := range lives {
		if l.owner != "" {
			made[l.String()]++
		}
	}
	return made
}

// outlived lists every object that was there when its owner was not: at any time, not only at the end. Owners that the user removed by force
// are named in forced.
func outlived(lives []life, forced map[types.UID]bool) []string {
	owners := map[types.UID]life{}
	for _, l := range lives {
		owners[l.uid] = l
	}
	var found []string
	for _, l := range lives {
		owner, known := owners[l.owner]
		if !known || owner.died == 0 || forced[owner.uid] {
			continue
		}
		if l.died == 0 || l.died > owner.died {
			found = append(found, fmt.Sprintf("%s was there when its owner, %s with UID %s, was gone", l.String(), owner.String(), owner.uid))
		}
	}
	return found
}

// crowded lists every group that had more than one pod at a time.
func crowded(lives []life) []string {
	var found []string
	for i, a := range lives {
		for _, b := range lives[i+1:] {
			if a.kind == "Pod" && b.kind == "Pod" && a.owner != "" && a.owner == b.owner && (a.died == 0 || a.died > b.born) {
				found = append(found, fmt.Sprintf("pods %s and %s of one group lived at the same time", a.name, b.name))
			}
		}
	}
	return found
}
