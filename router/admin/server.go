package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of the server. Callers are the kubelet and Prometheus: short requests without bodies, on few connections.
const (
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	writeTimeout   = 30 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 16 << 10
	// scrapeTimeout bounds one collection of metrics, maxScrapes how many run at a time.
	scrapeTimeout = 10 * time.Second
	maxScrapes    = 3
	// closeTimeout is what open requests get when the router ends.
	closeTimeout = 2 * time.Second
)

// Config of a Server. Every field but Log is required.
type Config struct {
	// Listener to serve on; the server closes it.
	Listener net.Listener
	// Ready answers /readyz. It is called for each request and must not block.
	Ready func() bool
	// Metrics is what /metrics shows.
	Metrics prometheus.Gatherer
	// Log gets the errors of the HTTP server and of metrics.
	Log logr.Logger
}

// Server answers /healthz (it listens), /readyz and /metrics. Whoever reaches it can only read.
type Server struct {
	config Config
	http   *http.Server
}

// New checks the configuration; Run serves.
func New(config Config) (*Server, error) {
	if config.Listener == nil || config.Ready == nil || config.Metrics == nil {
		return nil, errors.New("admin: Listener, Ready and Metrics must be set")
	}
	s := &Server{config: config}
	errorLog := log.New(logWriter{config.Log}, "", 0)
	routes := http.NewServeMux()
	routes.HandleFunc("GET /healthz", s.healthz)
	routes.HandleFunc("GET /readyz", s.readyz)
	routes.Handle("GET /metrics", promhttp.HandlerFor(config.Metrics, promhttp.HandlerOpts{
		ErrorLog:            errorLog,
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
		Timeout:             scrapeTimeout,
	}))
	s.http = &http.Server{
		Handler:           http.MaxBytesHandler(routes, 0),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          errorLog,
	}
	return s, nil
}

// Run serves until ctx ends, then gives open requests a moment. It returns nil unless serving failed.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(s.config.Listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("admin server on %s: %w", s.config.Listener.Addr(), err)
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if s.http.Shutdown(closing) != nil {
		// A request that outlasts its moment is cut off; that is no failure of the router.
		_ = s.http.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, "ok\n")
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if !s.config.Ready() {
		answer(w, http.StatusServiceUnavailable, "not ready: no worker has been ready yet\n")
		return
	}
	answer(w, http.StatusOK, "ok\n")
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	// The caller may be gone; there is nobody to tell.
	_, _ = io.WriteString(w, text)
}

// logWriter hands lines of the standard logger on.
type logWriter struct{ log logr.Logger }

// Write takes one line.
func (w logWriter) Write(line []byte) (int, error) {
	w.log.Info("admin server", "message", string(line))
	return len(line), nil
}
