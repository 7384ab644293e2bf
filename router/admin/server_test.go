package admin

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

type fixture struct {
	url, addr string
	ready     atomic.Bool
	metrics   *prometheus.Registry
	client    *http.Client
}

// start serves until the test ends.
func start(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{metrics: prometheus.NewRegistry()}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = listener.Addr().String()
	f.url = "http://" + f.addr
	f.client = &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	server, err := New(Config{Listener: listener, Ready: f.ready.Load, Metrics: f.metrics, Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		f.client.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return f
}

func (f *fixture) ask(t *testing.T, method, path string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, f.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := f.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func (f *fixture) expect(t *testing.T, method, path string, code int, text string) {
	t.Helper()
	if got, body := f.ask(t, method, path); got != code || !strings.Contains(body, text) {
		t.Errorf("%s %s: %d %q, want %d with %q", method, path, got, body, code, text)
	}
}

func TestProbes(t *testing.T) {
	f := start(t)
	f.expect(t, "GET", "/healthz", 200, "ok")
	f.expect(t, "GET", "/readyz", 503, "no worker has been ready yet")
	f.ready.Store(true)
	f.expect(t, "GET", "/readyz", 200, "ok")
	f.expect(t, "POST", "/healthz", 405, "")
	f.expect(t, "GET", "/prestop", 404, "")
	f.expect(t, "POST", "/prestop", 404, "")
	f.expect(t, "GET", "/", 404, "")
	f.expect(t, "GET", "/debug/pprof/", 404, "")
}

func TestMetrics(t *testing.T) {
	f := start(t)
	calls := prometheus.NewCounter(prometheus.CounterOpts{Name: "snakepit_router_calls_total", Help: "Calls."})
	f.metrics.MustRegister(calls)
	calls.Add(3)
	f.expect(t, "GET", "/metrics", 200, "snakepit_router_calls_total 3")
}

func TestHeadersAreBounded(t *testing.T) {
	f := start(t)
	connection, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	if err := connection.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// The server may answer and close before all is written.
	_, _ = fmt.Fprintf(connection, "GET /healthz HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("a", 64<<10))
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err == nil && !strings.Contains(line, "431") {
		t.Errorf("64 KiB of headers are answered with %q", line)
	}
}

func TestLimitsAreSet(t *testing.T) {
	server, err := New(Config{Listener: deafListener{}, Ready: func() bool { return true }, Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	h := server.http
	if h.ReadHeaderTimeout <= 0 || h.ReadTimeout <= 0 || h.WriteTimeout <= scrapeTimeout || h.IdleTimeout <= 0 || h.MaxHeaderBytes <= 0 {
		t.Errorf("a limit is missing: %+v", h)
	}
	if err := server.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "admin server") {
		t.Errorf("a listener that fails is not told: %v", err)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	if _, err := New(Config{Listener: deafListener{}, Ready: func() bool { return true }}); err == nil {
		t.Error("a server without metrics is made")
	}
}

// deafListener fails at once.
type deafListener struct{}

func (deafListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (deafListener) Close() error              { return nil }
func (deafListener) Addr() net.Addr            { return &net.TCPAddr{} }
