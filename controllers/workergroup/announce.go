package workergroup

import (
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// lastWord remembers what each group's router said at the last look, so that changes become Events. It is memory only: after a restart of
// the operator the first look is where comparing begins, and nothing is told twice.
type lastWord struct {
	mu     sync.Mutex
	groups map[types.UID]v1alpha1.RouterStatus
}

// replace stores the newest word and returns the one before; false for the first of this pod.
func (l *lastWord) replace(group types.UID, now v1alpha1.RouterStatus) (v1alpha1.RouterStatus, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.groups == nil {
		l.groups = map[types.UID]v1alpha1.RouterStatus{}
	}
	was, known := l.groups[group]
	l.groups[group] = now
	return was, known && was.PodUID == now.PodUID
}

func (l *lastWord) forget(group types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.groups, group)
}

// announce tells of what happened to workers and sessions since the last look, about the pool, which is what users watch.
func (r *Reconciler) announce(group *v1alpha1.WorkerGroup) {
	router := group.Status.Router
	if router == nil || router.PodUID != group.Spec.PodUID {
		return
	}
	was, known := r.words.replace(group.UID, *router.DeepCopy())
	if !known {
		return
	}
	pool, pod := poolReference(group), group.Status.PodName
	restarts := map[int32]int32{}
	for _, w := range was.Workers {
		restarts[w.Slot] = w.Restarts
	}
	for _, w := range router.Workers {
		if before, ok := restarts[w.Slot]; ok && w.Restarts > before {
			r.announceExit(group, w, w.Restarts-before)
		}
	}
	if id := router.RecycleCompleted; id != "" && id != was.RecycleCompleted {
		r.event(pool, group, corev1.EventTypeNormal, v1alpha1.EventRecycled, "RecycleWorkers", "recycle request %q is complete in pod %s", id, pod)
	}
	if lost := router.SessionsLost - was.SessionsLost; lost > 0 {
		r.event(pool, group, corev1.EventTypeWarning, v1alpha1.EventSessionLost, "EndSessions", "sessions lost in pod %s: %d", pod, lost)
	}
	if started := router.ReadyWorkers - was.ReadyWorkers; started > 0 {
		r.event(pool, group, corev1.EventTypeNormal, v1alpha1.EventWorkerStarted, "StartWorkers", "workers ready in pod %s: %d of %d", pod, router.ReadyWorkers, group.Spec.Workers)
	}
}

// announceExit tells of the deaths in one slot since the last look: of the last one why, and what to do.
func (r *Reconciler) announceExit(group *v1alpha1.WorkerGroup, w v1alpha1.WorkerStatus, deaths int32) {
	pod, note := group.Status.PodName, orElse(w.LastError, "no cause known")
	reason := v1alpha1.EventWorkerCrashed
	if w.LastExit != nil {
		if step := w.LastExit.Reason.NextStep(); step != "" {
			note += "; " + step
		}
		switch w.LastExit.Reason {
		case v1alpha1.ExitStuck:
			reason = v1alpha1.EventWorkerStuck
		case v1alpha1.ExitCallTimeout:
			reason = v1alpha1.EventWorkerTimedOut
		case v1alpha1.ExitMemoryGuard, v1alpha1.ExitContainerOOM:
			reason = v1alpha1.EventWorkerOOM
		}
	}
	if deaths > 1 {
		note = fmt.Sprintf("%d times; the last: %s", deaths, note)
	}
	r.event(poolReference(group), group, corev1.EventTypeWarning, reason, "ReplaceWorker",
		"worker %s/%d ended and was replaced: %s (kubectl logs %s -c %s)", pod, w.Slot, note, pod, v1alpha1.WorkerContainer)
}
