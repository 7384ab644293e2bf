package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
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
	lost   moment = "lost"   // the answer is lost and nothing crashes; the watch of what was written lags
	late   moment = "late"   // the write arrives when its operator has crashed and its successor has looked; that one's watch of it lags
)

// crashes says whether the operator that sent the write ends with it.
func (m moment) crashes() bool { return m == before || m == after || m == late }

// errCut is what a crashed operator gets for everything that it tries.
var errCut = errors.New("cut: this operator has crashed")

// errLost is what a living operator gets for a write whose answer is lost.
var errLost = errors.New("cut: connection reset by peer")

// write is one request that changes something.
type write struct {
	verb     string
	resource string
	name     string
	sub      string
	// object is what a POST carries; nil for the rest.
	object runtime.Object
}

// lifeInName is what a pod's name has of its group's UID: it differs from life to life.
var lifeInName = regexp.MustCompile(`-[0-9a-f]{5}-([0-9]+)$`)

func (w write) String() string {
	name := w.name
	if w.resource == "pods" {
		name = lifeInName.ReplaceAllString(name, "-LIFE-$1")
	}
	text := fmt.Sprintf("%s %s/%s", w.verb, w.resource, name)
	if w.sub != "" {
		text += "/" + w.sub
	}
	return text
}

// kind is what the write does, without the name: for the names of points.
func (w write) kind() string {
	text := w.verb + "-" + w.resource
	if w.sub != "" {
		text += "-" + w.sub
	}
	return text
}

// position is one write of a life: the nth of a step that looks like this. How often a status is written differs from life to life, and so does
// the number of each write in the whole; its place among its like in a step does not.
type position struct {
	step int
	like string
	nth  int
}

// wire sees all that one operator sends, and cuts it at one position.
type wire struct {
	story  *story
	codecs serializer.CodecFactory
	at     position
	how    moment
	// reached is closed when the fault happens; target is the write then, and deliver sends it, when it is to arrive late.
	reached chan struct{}
	target  write
	deliver func() (string, error)
	// goOn lets a held write go.
	goOn chan struct{}
	// open lets the writes of this operator go, and the lists by which it makes sure that nothing is left; asked is closed when the first one
	// waits for it or passes.
	open, asked chan struct{}
	once        sync.Once

	mu     sync.Mutex
	dead   bool
	writes []write
	step   int
	like   map[string]int // in this step
	last   time.Time
	calls  map[string]int
	// behind is the resource whose watches lag, until then.
	behind string
	until  time.Time
}

func newWire(s *story, scheme *runtime.Scheme, at position, how moment) *wire {
	w := &wire{
		story: s, codecs: serializer.NewCodecFactory(scheme), at: at, how: how, reached: make(chan struct{}), goOn: make(chan struct{}),
		open: make(chan struct{}), asked: make(chan struct{}), like: map[string]int{}, calls: map[string]int{}, last: time.Now(),
	}
	close(w.open)
	return w
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// wrap is for rest.Config.WrapTransport.
func (w *wire) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		target, counts := parse(r)
		w.mu.Lock()
		dead := w.dead
		w.calls[callOf(r, target)]++
		w.mu.Unlock()
		switch {
		case dead:
			return nil, errCut
		case !counts && !makesSure(r, target):
			return w.look(next, r, target)
		}
		w.once.Do(func() { close(w.asked) })
		select {
		case <-w.open:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		if !counts {
			return next.RoundTrip(r)
		}
		r, err := w.read(r, &target)
		if err != nil {
			return nil, err
		}
		return w.send(next, r, target)
	})
}

// makesSure says whether a request is a list that must be the newest: those that fill a cache name a version, and discovery is in no namespace.
func makesSure(r *http.Request, target write) bool {
	return callOf(r, target) == "list" && !strings.HasPrefix(target.resource, "/") && !r.URL.Query().Has("resourceVersion")
}

// look sends what changes nothing. The events of a watch may come late.
func (w *wire) look(next http.RoundTripper, r *http.Request, target write) (*http.Response, error) {
	resp, err := next.RoundTrip(r)
	if err == nil && r.URL.Query().Has("watch") {
		resp.Body = newLagging(resp.Body, func() time.Duration {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.behind == target.resource && time.Now().Before(w.until) {
				return lag
			}
			return 0
		})
	}
	return resp, err
}

// callOf is the verb under which a request is counted, as the API server names it.
func callOf(r *http.Request, target write) string {
	switch {
	case target.resource == "events":
		return "event"
	case r.Method != http.MethodGet:
		return strings.ToLower(strings.Replace(r.Method, "POST", "create", 1))
	case r.URL.Query().Has("watch"):
		return "watch"
	case target.name == "":
		return "list"
	}
	return "get"
}

// parse names what a request is about. It counts when it changes the state: reads do not, nor do Events and Leases.
func parse(r *http.Request) (w write, counts bool) {
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	w = write{verb: r.Method, resource: r.URL.Path}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	for i, part := range parts {
		if part != "namespaces" || len(parts) < i+3 {
			continue
		}
		w.resource = parts[i+2]
		if len(parts) > i+3 {
			w.name = parts[i+3]
		}
		if len(parts) > i+4 {
			w.sub = parts[i+4]
		}
		break
	}
	return w, !reads && w.resource != "events" && w.resource != "leases"
}

// read decodes what a POST carries, for its name, and returns a request whose body can be read again.
func (w *wire) read(r *http.Request, target *write) (*http.Request, error) {
	if r.Body == nil {
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
	if r.Method != http.MethodPost {
		return r, nil
	}
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
	hit = w.how != never && w.at == position{w.step, target.String(), w.like[target.String()]}
	if hit {
		w.target = target
	}
	if hit && w.how == lost {
		w.behind, w.until = target.resource, time.Now().Add(lag)
	}
	w.dead = hit && w.how.crashes()
	return n, hit, nil
}

func (w *wire) send(next http.RoundTripper, r *http.Request, target write) (*http.Response, error) {
	n, hit, err := w.admit(target)
	if err != nil {
		return nil, err
	}
	switch {
	case hit && w.how == before:
		w.story.tell("operator", "write %d %s: crashed before it was sent", n, target)
		close(w.reached)
		return nil, errCut
	case hit && w.how == late:
		w.story.tell("operator", "write %d %s: on its way, and crashed", n, target)
		w.deliver = func() (string, error) { return w.arrive(next, r) }
		close(w.reached)
		return nil, errCut
	case hit && w.how == held:
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
	if !hit || w.how == held {
		w.story.tell("operator", "write %d %s: %s", n, target, outcome)
		return resp, err
	}
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	defer close(w.reached)
	if w.how == lost {
		w.story.tell("operator", "write %d %s: %s, and the answer is lost", n, target, outcome)
		return nil, errLost
	}
	w.story.tell("operator", "write %d %s: %s, crashed before the answer arrived", n, target, outcome)
	return nil, errCut
}

// arrive sends a write of a crashed operator, and says what became of it.
func (w *wire) arrive(next http.RoundTripper, r *http.Request) (string, error) {
	again := r.Clone(context.WithoutCancel(r.Context()))
	if r.GetBody != nil {
		again.Body, _ = r.GetBody()
	}
	resp, err := next.RoundTrip(again)
	if err != nil {
		return "", err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.Status, resp.Body.Close()
}

// fallBehind has the watches of a resource lag from now on.
func (w *wire) fallBehind(resource string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.behind, w.until = resource, time.Now().Add(lag)
}

// begin a step: its writes are counted anew.
func (w *wire) begin(step int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.step = step
	clear(w.like)
}

// sent is what was written until now, and when the last write was.
func (w *wire) sent() ([]write, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]write(nil), w.writes...), w.last
}

// requests is how many of each verb were sent until now.
func (w *wire) requests() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.calls)
}
