package faults

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// moment is where in a write's way the fault happens.
type moment string

const (
	never  moment = "never"
	before moment = "before" // the write is not sent
	after  moment = "after"  // the API server has answered, and the answer is lost
	held   moment = "held"   // the write waits while the user acts, then goes on; nothing crashes
)

// errCut is what a crashed operator gets for everything that it tries.
var errCut = errors.New("cut: this operator has crashed")

// write is one request that changes something.
type write struct {
	verb     string
	resource string
	name     string
	sub      string
	// object is what a POST carries; nil for the rest.
	object runtime.Object
}

func (w write) String() string {
	text := fmt.Sprintf("%s %s/%s", w.verb, w.resource, w.name)
	if w.sub != "" {
		text += "/" + w.sub
	}
	return text
}

// position is one write of a life: the nth that looks like this. How often a status is written differs from life to life, and so does the
// number of each write in the whole; its place among its like does not.
type position struct {
	like string
	nth  int
}

// wire sees all that one operator sends, and cuts it at one position.
type wire struct {
	story  *story
	codecs serializer.CodecFactory
	at     position
	how    moment
	// reached is closed when the fault happens; target is the write then.
	reached chan struct{}
	target  write
	// goOn lets a held write go.
	goOn chan struct{}

	mu     sync.Mutex
	dead   bool
	writes []write
	like   map[string]int
	last   time.Time
}

func newWire(s *story, scheme *runtime.Scheme, at position, how moment) *wire {
	return &wire{
		story: s, codecs: serializer.NewCodecFactory(scheme), at: at, how: how,
		reached: make(chan struct{}), goOn: make(chan struct{}), like: map[string]int{}, last: time.Now(),
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// wrap is for rest.Config.WrapTransport.
func (w *wire) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		target, counts := parse(r)
		if !counts {
			w.mu.Lock()
			dead := w.dead
			w.mu.Unlock()
			if dead {
				return nil, errCut
			}
			return next.RoundTrip(r)
		}
		r, err := w.read(r, &target)
		if err != nil {
			return nil, err
		}
		return w.send(next, r, target)
	})
}

// parse names what a request changes; false for reads and for what is no part of the state: Events and Leases.
func parse(r *http.Request) (write, bool) {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return write{}, false
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	for i, part := range parts {
		if part != "namespaces" || len(parts) < i+3 {
			continue
		}
		w := write{verb: r.Method, resource: parts[i+2]}
		if len(parts) > i+3 {
			w.name = parts[i+3]
		}
		if len(parts) > i+4 {
			w.sub = parts[i+4]
		}
		return w, w.resource != "events" && w.resource != "leases"
	}
	return write{verb: r.Method, resource: r.URL.Path}, true
}

// read decodes what a POST carries, for its name, and returns a request whose body can be read again.
func (w *wire) read(r *http.Request, target *write) (*http.Request, error) {
	if r.Body == nil || r.Method != http.MethodPost {
		return r, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	again := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r = r.Clone(r.Context())
	r.Body, _ = again()
	r.GetBody = again
	object, _, err := w.codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("faults: POST %s cannot be read: %w", r.URL.Path, err)
	}
	named, err := meta.Accessor(object)
	if err != nil {
		return nil, err
	}
	target.object, target.name = object, named.GetName()
	return r, nil
}

// admit counts a write and says whether the fault happens at it.
func (w *wire) admit(target write) (n int, hit bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return 0, false, errCut
	}
	w.writes = append(w.writes, target)
	w.last = time.Now()
	n = len(w.writes)
	w.like[target.String()]++
	hit = w.how != never && target.String() == w.at.like && w.like[target.String()] == w.at.nth
	if hit {
		w.target = target
	}
	w.dead = hit && w.how != held
	return n, hit, nil
}

func (w *wire) send(next http.RoundTripper, r *http.Request, target write) (*http.Response, error) {
	n, hit, err := w.admit(target)
	if err != nil {
		return nil, err
	}
	if hit && w.how == before {
		w.story.tell("operator", "write %d %s: crashed before it was sent", n, target)
		close(w.reached)
		return nil, errCut
	}
	if hit && w.how == held {
		w.story.tell("operator", "write %d %s: held", n, target)
		close(w.reached)
		select {
		case <-w.goOn:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	resp, err := next.RoundTrip(r)
	outcome := fmt.Sprint(err)
	if err == nil {
		outcome = resp.Status
	}
	if !hit || w.how != after {
		w.story.tell("operator", "write %d %s: %s", n, target, outcome)
		return resp, err
	}
	w.story.tell("operator", "write %d %s: %s, crashed before the answer arrived", n, target, outcome)
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	close(w.reached)
	return nil, errCut
}

// sent is what was written until now, and when the last write was.
func (w *wire) sent() ([]write, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]write(nil), w.writes...), w.last
}
