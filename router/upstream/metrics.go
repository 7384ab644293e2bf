package upstream

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/snakepit-k8s/snakepit/router/dispatch"
	"github.com/snakepit-k8s/snakepit/router/front"
	"github.com/snakepit-k8s/snakepit/router/session"
)

// Metrics of the router. Labels are few and bounded: a tool only when the adapter declared it, else "other".
type Metrics struct {
	calls        *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	queueSeconds prometheus.Histogram
	exits        *prometheus.CounterVec
	startSeconds prometheus.Histogram
	replaced     prometheus.Histogram

	targets  atomic.Pointer[map[string]*target]
	mu       sync.Mutex
	declared map[string]bool
}

const otherTool = "other"

// small methods of the generic API, counted under their own names.
var methods = map[string]bool{"OpenSession": true, "CloseSession": true, "GetSession": true, "ListTools": true}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	durations := prometheus.ExponentialBuckets(0.0005, 2.5, 16) // 0.5 ms to 466 s
	m := &Metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "snakepit_router_calls_total", Help: "Calls that ended, by tool, gRPC code and reason."}, []string{"tool", "code", "reason"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "snakepit_router_call_duration_seconds", Help: "Time from a call's arrival to its end, queue included.", Buckets: durations}, []string{"tool"}),
		queueSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "snakepit_router_queue_wait_seconds", Help: "Time that served calls waited for a worker.", Buckets: durations}),
		exits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "snakepit_worker_exits_total", Help: "Worker processes that ended, by cause."}, []string{"cause"}),
		startSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "snakepit_worker_start_duration_seconds", Help: "Time from a worker's start to its readiness.", Buckets: durations}),
		replaced: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "snakepit_worker_replacement_duration_seconds", Help: "Time from a worker's broken connection to its ready replacement.", Buckets: durations}),
	}
	m.targets.Store(&map[string]*target{})
	r.MustRegister(m.calls, m.seconds, m.queueSeconds, m.exits, m.startSeconds, m.replaced)
	return m
}

// declare makes the tools and methods of the adapter known as labels.
func (m *Metrics) declare(d *front.Declared) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.declared = make(map[string]bool, len(d.Tools)+len(d.Methods))
	for _, tool := range d.Tools {
		m.declared[tool.Name] = true
	}
	for _, method := range d.Methods {
		m.declared[method.Path] = true
	}
	m.targets.Store(&map[string]*target{}) // found anew, by the names that are known now
}

// target is what is counted of one tool or method.
type target struct {
	label   string
	seconds prometheus.Observer
	good    prometheus.Counter // calls that went well
}

// Called implements front.Observer. A good call costs one look into a map that does not change.
func (m *Metrics) Called(name string, code codes.Code, reason front.Reason, took time.Duration) {
	t := (*m.targets.Load())[name]
	if t == nil {
		t = m.resolve(name)
	}
	t.seconds.Observe(took.Seconds())
	if code == codes.OK && reason == "" {
		t.good.Inc()
		return
	}
	m.calls.WithLabelValues(t.label, code.String(), knownReason(string(reason))).Inc()
}

// resolve finds what a target is counted by, and remembers it when its name is a label.
func (m *Metrics) resolve(name string) *target {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := &target{label: otherTool}
	if methods[name] || m.declared[name] {
		t.label = name
	}
	t.seconds, t.good = m.seconds.WithLabelValues(t.label), m.calls.WithLabelValues(t.label, codes.OK.String(), "")
	if t.label == name || name == "" {
		known := maps.Clone(*m.targets.Load())
		known[name] = t
		m.targets.Store(&known)
	}
	return t
}

// knownReason bounds the label: an adapter may invent reasons.
func knownReason(reason string) string {
	if reason == "" || knownReasons[reason] {
		return reason
	}
	return "other"
}

var knownReasons = map[string]bool{}

func init() {
	for _, r := range []string{
		"ARGUMENT_INVALID", "TOOL_UNKNOWN", "METHOD_UNKNOWN", "ADAPTER_EXCEPTION", "WORKER_BUSY", "QUEUE_FULL", "QUEUE_TIMEOUT",
		"DEADLINE_UNREACHABLE", "NO_READY_WORKER", "RECOVERING", "WORKER_DIED", "SESSION_LOST", "SESSION_EXPIRED", "SESSION_UNKNOWN",
		"CALL_TIMEOUT", "DRAINING", "MESSAGE_TOO_LARGE", "CANCELLED", "INTERNAL",
		"ALREADY_EXECUTED", "REQUEST_QUARANTINED",
	} {
		knownReasons[r] = true
	}
}

func knownCause(cause string) string {
	switch cause {
	case "KILLED", "EXITED", "SETUP_FAILED", "STARTUP_TIMEOUT", "STOPPED", session.CauseRecycled, "MEMORY_GUARD", "CONTAINER_OOM", causeCallTimeout, causeStuck:
		return cause
	}
	return "other"
}

// collector reads figures of the pool when they are asked for.
type collector struct {
	pool  *Pool
	gauge map[string]*prometheus.Desc
	state *prometheus.Desc
	lost  *prometheus.Desc
	start *prometheus.Desc
}

// Register adds the pool's figures.
func (p *Pool) Register(r prometheus.Registerer) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	r.MustRegister(&collector{pool: p,
		gauge: map[string]*prometheus.Desc{
			"queue":    desc("snakepit_router_queue_length", "Calls that wait for a worker."),
			"flight":   desc("snakepit_router_calls_in_flight", "Calls that have a worker."),
			"demand":   desc("snakepit_router_demand", "Calls in flight and queued, not clamped by capacity: what autoscalers read."),
			"sessions": desc("snakepit_router_sessions", "Sessions that live."),
			"wanted":   desc("snakepit_router_workers_wanted", "Workers that are wanted."),
			"looping":  desc("snakepit_router_crash_looping", "1 while more workers die than crash.maxRestarts within crash.window bears, else 0."),
		},
		state: desc("snakepit_router_workers", "Workers by state.", "state"),
		lost:  desc("snakepit_router_sessions_lost_total", "Sessions that ended without their caller's wish, by cause.", "cause"),
		start: desc("snakepit_worker_restarts_total", "Worker processes that were replaced since the container started."),
	})
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.gauge {
		ch <- d
	}
	ch <- c.state
	ch <- c.lost
	ch <- c.start
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	f, looping := c.pool.Facts(), 0
	if f.CrashLooping {
		looping = 1
	}
	for name, value := range map[string]int{
		"queue": f.Queued, "flight": f.Running, "demand": f.Queued + f.Running, "sessions": f.Sessions, "wanted": f.Wanted, "looping": looping,
	} {
		ch <- prometheus.MustNewConstMetric(c.gauge[name], prometheus.GaugeValue, float64(value))
	}
	states := map[string]int{"Starting": 0, "Ready": 0, "Draining": 0, "Suspect": 0, "Failed": 0}
	restarts := 0
	for _, s := range f.Slots {
		states[s.State]++
		restarts += s.Restarts
	}
	for state, n := range states {
		ch <- prometheus.MustNewConstMetric(c.state, prometheus.GaugeValue, float64(n), state)
	}
	for i, cause := range dispatch.LossCauses {
		ch <- prometheus.MustNewConstMetric(c.lost, prometheus.CounterValue, float64(f.Lost[i]), cause)
	}
	ch <- prometheus.MustNewConstMetric(c.start, prometheus.CounterValue, float64(restarts))
}
