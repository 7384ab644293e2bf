package membership

import (
	"context"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

const (
	groupResource = "workergroups"
	// requestTimeout bounds every request but a watch.
	requestTimeout = 10 * time.Second
	// watchTimeout is what the server is asked for; up to as much again is added at random, so that the routers of a
	// cluster do not all come back at once.
	watchTimeout = 5 * time.Minute
	backoffFirst = time.Second
	backoffLast  = 30 * time.Second
)

// follow lists and watches the group until ctx ends. One object is cheap to list, so each watch starts from a fresh list
// and no resource version has to be remembered. (A client-go reflector would retry inside itself, where neither ctx nor
// the log of this package reaches.)
func (k *Kubernetes) follow(ctx context.Context) {
	delay := backoffFirst
	for ctx.Err() == nil {
		progress, err := k.listAndWatch(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			k.tell(explain(err), "error", bounded(err.Error(), maxText))
		}
		if progress {
			delay = backoffFirst
		}
		if !pause(ctx, k.config.Clock, jittered(delay)) {
			return
		}
		delay = min(2*delay, backoffLast)
	}
}

// listAndWatch returns when the watch ends, with an error only if something was refused or unreachable; progress says
// that at least one answer came before.
func (k *Kubernetes) listAndWatch(ctx context.Context) (progress bool, err error) {
	selector := fields.OneTermEqualSelector("metadata.name", k.config.Name).String()
	list := &v1alpha1.WorkerGroupList{}
	err = k.client.Get().Namespace(k.config.Namespace).Resource(groupResource).
		VersionedParams(&metav1.ListOptions{FieldSelector: selector}, metav1.ParameterCodec).
		Timeout(requestTimeout).Do(ctx).Into(list)
	if err != nil {
		return false, err
	}
	k.listed(list.Items)
	length := watchTimeout + rand.N(watchTimeout)
	// The server ends the watch first; the margin is for a connection that died without a word.
	ctx, cancel := context.WithTimeout(ctx, length+30*time.Second)
	defer cancel()
	stream, err := k.client.Get().Namespace(k.config.Namespace).Resource(groupResource).
		VersionedParams(&metav1.ListOptions{
			FieldSelector:   selector,
			Watch:           true,
			ResourceVersion: list.ResourceVersion,
			TimeoutSeconds:  ptr.To(int64(length / time.Second)),
		}, metav1.ParameterCodec).Watch(ctx)
	if err != nil {
		return false, err
	}
	defer stream.Stop()
	return true, k.drink(ctx, stream)
}

func (k *Kubernetes) listed(items []v1alpha1.WorkerGroup) {
	for i := range items {
		// The field selector is a request; a proxy in between may ignore it.
		if items[i].Name == k.config.Name {
			k.told = ""
			k.observe(&items[i])
			return
		}
	}
	k.gone()
}

// drink takes events until the stream ends.
func (k *Kubernetes) drink(ctx context.Context, stream watch.Interface) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, open := <-stream.ResultChan():
			if !open {
				return nil
			}
			switch event.Type {
			case watch.Error:
				return apierrors.FromObject(event.Object)
			case watch.Added, watch.Modified:
				if group, ok := event.Object.(*v1alpha1.WorkerGroup); ok && group.Name == k.config.Name {
					k.observe(group)
				}
			case watch.Deleted:
				k.gone()
			}
		}
	}
}

func (k *Kubernetes) gone() {
	if k.current == nil {
		k.tell("the WorkerGroup does not exist yet; waiting for it", "namespace", k.config.Namespace, "name", k.config.Name)
		return
	}
	k.tell("the WorkerGroup is gone; the last spec stays in force until the pod is ended")
}

// explain says in constant words what an error of the API server means for this router, so that a repetition is recognized.
func explain(err error) string {
	const kept = "; the last spec stays in force"
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return "the namespace is being deleted" + kept
	case apierrors.IsUnauthorized(err):
		return "the API server does not accept the router's token" + kept
	case apierrors.IsForbidden(err):
		return "the router may not read its WorkerGroup (see the Role of its ServiceAccount)" + kept
	case apierrors.IsNotFound(err):
		return "the API server does not know the kind WorkerGroup or the namespace" + kept
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
		return "the watch was too old and starts again"
	default:
		return "the API server cannot be reached" + kept
	}
}

// pause waits on the injected clock; false says that ctx ended first.
func pause(ctx context.Context, ticking clock.Clock, length time.Duration) bool {
	timer := ticking.NewTimer(length)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
		return true
	}
}

// jittered spreads a delay over half to all of it.
func jittered(delay time.Duration) time.Duration {
	return delay/2 + rand.N(delay/2+1)
}
