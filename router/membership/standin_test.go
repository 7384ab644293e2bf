package membership

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

const (
	testNamespace = "ns"
	testGroup     = "counter-7c9-0"
	groupsPath    = "/apis/snakepit.dev/v1alpha1/namespaces/ns/workergroups"
)

// liveGroup is a group as the operator makes it.
func liveGroup(uid types.UID, generation int64) *v1alpha1.WorkerGroup {
	group := &v1alpha1.WorkerGroup{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: groupKind},
		ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: testGroup, UID: uid, Generation: generation},
		Spec: v1alpha1.WorkerGroupSpec{PoolName: "counter", Workers: 2, Revision: "7c9", PodUID: "pod-1",
			PodSettings: v1alpha1.PodSettings{Image: "image:1", Adapter: "app:Counter"}},
	}
	Default(&group.Spec)
	return group
}

// request as the stand-in saw it.
type request struct {
	method, path, contentType string
	query                     map[string][]string
	body                      map[string]any
}

// standIn answers like an API server that holds at most one WorkerGroup: list, watch, get, and apply on its status.
type standIn struct {
	*httptest.Server

	mu       sync.Mutex
	group    *v1alpha1.WorkerGroup
	version  int
	streams  map[chan metav1.WatchEvent]bool
	requests []request
	refuse   func(*http.Request) *metav1.Status
}

func newStandIn(t *testing.T) *standIn {
	t.Helper()
	s := &standIn{version: 10, streams: map[chan metav1.WatchEvent]bool{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() {
		s.hangUp()
		s.Close()
	})
	return s
}

func (s *standIn) rest() *rest.Config { return &rest.Config{Host: s.URL} }

// set stores a group (nil deletes it) and tells all watches.
func (s *standIn) set(group *v1alpha1.WorkerGroup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store(group)
}

func (s *standIn) store(group *v1alpha1.WorkerGroup) {
	s.version++
	kind, shown := "MODIFIED", group
	switch {
	case group == nil && s.group == nil:
		return
	case group == nil:
		kind, shown = "DELETED", s.group
	case s.group == nil:
		kind = "ADDED"
	}
	if group != nil {
		group = group.DeepCopy()
		group.ResourceVersion = strconv.Itoa(s.version)
		shown = group
	}
	s.group = group
	document, _ := json.Marshal(shown)
	event := metav1.WatchEvent{Type: kind}
	event.Object.Raw = document
	for stream := range s.streams {
		stream <- event
	}
}

// hangUp ends every watch.
func (s *standIn) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for stream := range s.streams {
		close(stream)
		delete(s.streams, stream)
	}
}

func (s *standIn) refuseWith(refuse func(*http.Request) *metav1.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = refuse
}

func (s *standIn) seen(method string) []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []request
	for _, r := range s.requests {
		if r.method == method {
			found = append(found, r)
		}
	}
	return found
}

func (s *standIn) watches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

func (s *standIn) stored() *v1alpha1.WorkerGroup {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.group.DeepCopy()
}

func status(code int, reason metav1.StatusReason, causes ...metav1.StatusCause) *metav1.Status {
	return &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: string(reason), Details: &metav1.StatusDetails{Causes: causes}}
}

func (s *standIn) serve(w http.ResponseWriter, r *http.Request) {
	seen := request{method: r.Method, path: r.URL.Path, contentType: r.Header.Get("Content-Type"), query: r.URL.Query()}
	if document, _ := io.ReadAll(r.Body); len(document) > 0 {
		_ = json.Unmarshal(document, &seen.body)
	}
	s.mu.Lock()
	s.requests = append(s.requests, seen)
	if s.refuse != nil {
		if refusal := s.refuse(r); refusal != nil {
			s.mu.Unlock()
			reply(w, int(refusal.Code), refusal)
			return
		}
	}
	if r.URL.Query().Get("watch") == "true" {
		stream := make(chan metav1.WatchEvent, 100)
		s.streams[stream] = true
		s.mu.Unlock()
		s.stream(w, r, stream)
		return
	}
	defer s.mu.Unlock()
	switch {
	case r.Method == http.MethodGet && r.URL.Path == groupsPath:
		list := &v1alpha1.WorkerGroupList{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "WorkerGroupList"}}
		list.ResourceVersion = strconv.Itoa(s.version)
		if s.group != nil {
			list.Items = append(list.Items, *s.group)
		}
		reply(w, http.StatusOK, list)
	case s.group == nil:
		reply(w, http.StatusNotFound, status(http.StatusNotFound, metav1.StatusReasonNotFound))
	case r.Method == http.MethodPatch:
		s.patch(w, seen)
	default:
		reply(w, http.StatusOK, s.group)
	}
}

// patch takes over the router's part, as server-side apply would.
func (s *standIn) patch(w http.ResponseWriter, seen request) {
	var wish statusApply
	document, _ := json.Marshal(seen.body)
	_ = json.Unmarshal(document, &wish)
	if wish.Metadata.UID != s.group.UID {
		reply(w, http.StatusConflict, status(http.StatusConflict, metav1.StatusReasonConflict))
		return
	}
	next := s.group.DeepCopy()
	next.Status.Router = &wish.Status.Router
	for _, condition := range wish.Status.Conditions {
		meta.RemoveStatusCondition(&next.Status.Conditions, condition.Type)
		next.Status.Conditions = append(next.Status.Conditions, condition)
	}
	s.store(next)
	reply(w, http.StatusOK, s.group)
}

func (s *standIn) stream(w http.ResponseWriter, r *http.Request, events chan metav1.WatchEvent) {
	w.Header().Set("Content-Type", "application/json")
	flusher := w.(http.Flusher)
	flusher.Flush()
	defer func() {
		s.mu.Lock()
		delete(s.streams, events)
		s.mu.Unlock()
	}()
	for {
		select {
		case <-r.Context().Done():
			return
		case event, open := <-events:
			if !open {
				return
			}
			_ = json.NewEncoder(w).Encode(event)
			flusher.Flush()
		}
	}
}

func reply(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(value)
}

// newHangingServer accepts requests and never answers.
func newHangingServer(end <-chan struct{}) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-end:
		case <-r.Context().Done():
		}
	}))
}
