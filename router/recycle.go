package main

import (
	"sync"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/upstream"
)

// recycling knows which request for fresh processes needs nothing more, so that a router that restarts does not carry it out again. Its methods
// are safe for concurrent use.
type recycling struct {
	mu        sync.Mutex
	known     bool // the group was seen as the API server holds it
	completed string
}

// adopt returns the request that is to be carried out; nil for none. A request that this pod finds when it begins is older than its processes,
// and one of a stale group waits until it is known whether it was carried out.
func (r *recycling) adopt(group *v1alpha1.WorkerGroup, podUID string, stale bool) *upstream.RecycleRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	request := group.Spec.RecycleRequest
	if stale && !r.known {
		return nil
	}
	if !r.known {
		r.known = true
		if was := group.Status.Router; was != nil && string(was.PodUID) == podUID {
			r.completed = was.RecycleCompleted
		} else if request != nil {
			r.completed = request.ID
		}
	}
	if request == nil || request.ID == r.completed {
		return nil
	}
	wish := &upstream.RecycleRequest{ID: request.ID}
	for _, slot := range request.Slots {
		wish.Slots = append(wish.Slots, uint32(slot))
	}
	return wish
}

// report notes how far the workers are, and returns the id of the last request of which nothing is left to do.
func (r *recycling) report(f upstream.Facts) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.RecycleRequest != "" && f.RecycleLeft == 0 {
		r.completed = f.RecycleRequest
	}
	return r.completed
}
