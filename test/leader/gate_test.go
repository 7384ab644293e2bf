package leader

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

// write is one that an operator sent.
type write struct {
	at           time.Time
	method, path string
}

// gate stands between one operator and the API server. It notes the operator's writes, leases and Events apart, and can hold one until it is let go.
type gate struct {
	URL string

	server *http.Server
	held   chan struct{} // closed when the wanted write is here
	freed  chan struct{} // closed by release

	mu     sync.Mutex
	wants  func(method, path string) bool
	writes []write
}

func openGate(config *rest.Config) (*gate, error) {
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		return nil, err
	}
	if target.Host == "" {
		target = &url.URL{Scheme: "https", Host: config.Host}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	proxy := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1,
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	g := &gate{URL: "http://" + listener.Addr().String(), held: make(chan struct{}), freed: make(chan struct{})}
	g.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.pass(r) {
			// What was sent arrives, even when its sender is no more.
			r = r.WithContext(context.WithoutCancel(r.Context()))
		}
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = g.server.Serve(listener) }() // ends with Close
	return g, nil
}

// pass notes a write and holds it if it is the wanted one; then it returns true.
func (g *gate) pass(r *http.Request) bool {
	if r.Method == http.MethodGet || strings.Contains(r.URL.Path, "/leases") || strings.Contains(r.URL.Path, "/events") {
		return false
	}
	g.mu.Lock()
	g.writes = append(g.writes, write{time.Now(), r.Method, r.URL.Path})
	hold := g.wants != nil && g.wants(r.Method, r.URL.Path)
	if hold {
		g.wants = nil
		close(g.held)
	}
	g.mu.Unlock()
	if hold {
		body, _ := io.ReadAll(r.Body) // a part of it is refused by the API server
		r.Body = io.NopCloser(bytes.NewReader(body))
		<-g.freed
	}
	return hold
}

// hold makes the next write of this method, on a path that ends in or contains /resource/, wait for release.
func (g *gate) hold(method, resource string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wants = func(m, path string) bool {
		_, name, found := strings.Cut(path, "/"+resource)
		return m == method && found && !strings.Contains(strings.TrimPrefix(name, "/"), "/")
	}
}

func (g *gate) release() { close(g.freed) }

// since is what was written after a time, the held write apart.
func (g *gate) since(t time.Time) []write {
	g.mu.Lock()
	defer g.mu.Unlock()
	var late []write
	for _, w := range g.writes {
		if w.at.After(t) {
			late = append(late, w)
		}
	}
	return late
}

func (g *gate) close() { _ = g.server.Close() }
