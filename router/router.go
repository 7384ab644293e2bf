package main

import (
	"context"

	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"k8s.io/client-go/rest"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/router/admin"
	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/router/front"
	"github.com/snakepit-k8s/snakepit/router/membership"
	"github.com/snakepit-k8s/snakepit/router/session"
	"github.com/snakepit-k8s/snakepit/router/upstream"
)

const (
	tickInterval = 100 * time.Millisecond
	// flushGrace is the time that answers have to reach their callers when the router ends.
	flushGrace = 5 * time.Second
)

// source says what is wanted: the group in the API server, or a file.
type source interface {
	Run(ctx context.Context) error
}

// router holds the parts together.
type router struct {
	options    options
	log        logr.Logger
	registry   *prometheus.Registry
	pool       *upstream.Pool
	bridge     *bridge.Server
	front      *front.Server
	source     source
	report     func(membership.Facts)
	generation atomic.Int64
	drainFor   atomic.Int64 // spec.drain.timeout
	expose     atomic.Bool  // spec.crash.exposeMessages
	recycling  recycling
	followed   chan struct{}
	once       sync.Once
}

func newRouter(o options, log logr.Logger) (*router, error) {
	if !session.ValidPod(o.podUID) {
		return nil, fmt.Errorf("%s must have 1 to 40 bytes", v1alpha1.EnvPodUID)
	}
	r := &router{options: o, log: log, registry: prometheus.NewRegistry(), followed: make(chan struct{}), report: func(membership.Facts) {}}
	r.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics := upstream.NewMetrics(r.registry)
	r.pool = upstream.New(upstream.Config{
		PodUID: o.podUID, PodName: o.podName, Log: log.WithName("upstream"), Now: time.Now, Metrics: metrics,
	}, settingsOf(v1alpha1.WorkerGroupSpec{}, o.podUID, o.config != ""))
	r.pool.Register(r.registry)
	r.bridge = bridge.NewServer(bridge.Config{
		Pod: o.podUID, Instance: rand.Uint64(), MaxMessage: func() int { return int(r.pool.MaxMessageBytes()) }, Handler: r.pool,
		Heartbeat: r.pool.Heartbeat, Buffers: upstream.Buffers{},
	})
	r.pool.Attach(r.bridge)
	r.front = front.New(r.pool, metrics, time.Now)
	return r, r.follow()
}

// follow makes the source of the spec.
func (r *router) follow() error {
	if r.options.config != "" {
		file, err := membership.NewFile(membership.FileConfig{Path: r.options.config, Adopter: r, Log: r.log.WithName("membership")})
		r.source = file
		return err
	}
	cluster, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("no access to the cluster (outside of one, use --config): %w", err)
	}
	group, err := membership.NewKubernetes(membership.KubernetesConfig{
		REST: cluster, Namespace: r.options.namespace, Name: r.options.group, StateDir: r.options.stateDir,
		Adopter: r, Log: r.log.WithName("membership"),
	})
	if err != nil {
		return err
	}
	r.source, r.report = group, group.Report
	return nil
}

// Adopt implements membership.Adopter.
func (r *router) Adopt(group *v1alpha1.WorkerGroup, stale bool) {
	s := settingsOf(group.Spec, r.options.podUID, r.options.config != "")
	s.RecycleRequest = r.recycling.adopt(group, r.options.podUID, stale)
	r.generation.Store(group.Generation)
	r.drainFor.Store(int64(s.Dispatch.DrainTimeout))
	r.expose.Store(s.ExposeMessages)
	r.pool.SetSettings(s)
	r.log.Info("following the group", "generation", group.Generation, "workers", s.Wanted, "stale", stale, "standby", s.Standby)
	r.once.Do(func() { close(r.followed) })
}

// prestop is the pod's end as the kubelet tells it, for the case that the supervisor is stuck.
func (r *router) prestop() {
	r.pool.Drain(time.Now().Add(time.Duration(r.drainFor.Load())))
}

func (r *router) ready() bool { return r.pool.Facts().Ready }

// sockets are what the router listens on.
type sockets struct{ callers, admin, profiles, workers, preStop net.Listener }

func (r *router) listen() (s sockets, err error) {
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.callers, err = net.Listen("tcp", r.options.listen); err != nil {
		return s, fmt.Errorf("listen for callers (choose another --listen): %w", err)
	}
	if s.admin, err = net.Listen("tcp", r.options.adminListen); err != nil {
		return s, fmt.Errorf("listen for probes and metrics (choose another --admin-listen): %w", err)
	}
	if r.options.pprofListen != "" {
		if s.profiles, err = net.Listen("tcp", r.options.pprofListen); err != nil {
			return s, fmt.Errorf("listen for profiles (choose another --pprof-listen): %w", err)
		}
		r.log.Info("profiles", "pprof", s.profiles.Addr().String())
	}
	if err = os.MkdirAll(filepath.Dir(r.options.bridgeSocket), 0o755); err != nil {
		return s, fmt.Errorf("folder of the bridge socket (choose another --bridge-socket): %w", err)
	}
	if r.options.config == "" {
		if s.preStop, err = admin.ListenPreStop(filepath.Join(r.options.stateDir, admin.PreStopSocket)); err != nil {
			return s, fmt.Errorf("listen for the preStop hook (choose another --state-dir): %w", err)
		}
	}
	s.workers, err = bridge.Listen(r.options.bridgeSocket)
	return s, err
}

func (s sockets) close() {
	for _, l := range []net.Listener{s.callers, s.admin, s.profiles, s.workers, s.preStop} {
		if l != nil {
			_ = l.Close() // closed by its server already, as a rule
		}
	}
}

// run serves until the context ends, then ends gracefully. Workers outlive the router.
func (r *router) run(ctx context.Context) error {
	s, err := r.listen()
	if err != nil {
		return err
	}
	defer s.close()
	probes, err := admin.New(admin.Config{
		Listener: s.admin, Ready: r.ready, Metrics: r.registry, Log: r.log.WithName("admin"),
	})
	if err != nil {
		return err
	}
	parts, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var group sync.WaitGroup
	failed := make(chan error, 7) // one for each part
	start := func(f func() error) {
		group.Go(func() {
			if err := f(); err != nil && parts.Err() == nil {
				failed <- err
			}
		})
	}
	start(func() error { return r.source.Run(parts) })
	start(func() error { return r.serveBridge(parts, s.workers) })
	start(func() error { return r.front.Serve(s.callers) })
	start(func() error { return r.watch(parts) })
	start(func() error { return probes.Run(parts) })
	if s.preStop != nil {
		start(func() error { return admin.ServePreStop(parts, s.preStop, r.prestop, r.log.WithName("admin")) })
	}
	if s.profiles != nil {
		start(func() error { return serveProfiles(parts, s.profiles) })
	}
	r.log.Info("serving", "callers", s.callers.Addr().String(), "admin", s.admin.Addr().String(), "bridge", r.options.bridgeSocket, "version", version)

	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	r.end()
	cancel()
	group.Wait()
	return err
}

// serveBridge lets workers in once it is known what is wanted: before, every worker would be one too many.
func (r *router) serveBridge(ctx context.Context, l net.Listener) error {
	select {
	case <-r.followed:
		return r.bridge.Serve(ctx, l)
	case <-ctx.Done():
		return nil
	}
}

// end fails what waits, tells callers to go elsewhere, and lets running calls end.
func (r *router) end() {
	r.log.Info("ending: waiting calls are refused, running ones may end")
	r.pool.Retire()
	grace, cancel := context.WithTimeout(context.Background(), time.Duration(r.drainFor.Load())+flushGrace)
	defer cancel()
	r.front.Shutdown(grace)
}

// watch drives time and reports what changed.
func (r *router) watch(ctx context.Context) error {
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			r.pool.Tick()
		case <-r.pool.Changed():
		}
		f := r.pool.Facts()
		r.front.SetServing(f.Facts.Ready > 0)
		pod := identity{r.options.podUID, r.options.podName, r.expose.Load()}
		r.report(statusOf(f, pod, r.recycling.report(f), r.generation.Load()))
	}
}
