package upstream

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/snakepit-k8s/snakepit/router/dispatch"
)

// Metrics of the router. Labels are few and bounded: a tool only when the adapter declared it, else "other".
type Metrics struct {
	calls        *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	queueSeconds prometheus.Histogram
	exits        *prometheus.CounterVec
	startSeconds prometheus.Histogram
	replaced     prometheus.Histogram

	declared atomic.Pointer[map[string]bool]
	mu       sync.RWMutex
	counters map[callLabels]prometheus.Counter
	timers   map[string]prometheus.Observer
}

type callLabels struct{ tool, code, reason string }

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
		counters: map[callLabels]prometheus.Counter{}, timers: map[string]prometheus.Observer{},
	}
	r.MustRegister(m.calls, m.seconds, m.queueSeconds, m.exits, m.startSeconds, m.replaced)
	return m
}

// declare makes the tools of the adapter known as labels.
func (m *Metrics) declare(t *toolTable) {
	names := make(map[string]bool, len(t.tools))
	for _, tool := range t.tools {
		names[tool.Name] = true
	}
	m.declared.Store(&names)
}

func (m *Metrics) waited(d time.Duration) { m.queueSeconds.Observe(d.Seconds()) }

// Called implements front.Observer.
func (m *Metrics) Called(tool, code, reason string, took time.Duration) {
	if names := m.declared.Load(); !methods[tool] && (names == nil || !(*names)[tool]) {
		tool = otherTool
	}
	key := callLabels{tool, code, knownReason(reason)}
	m.mu.RLock()
	counter, timer := m.counters[key], m.timers[tool]
	m.mu.RUnlock()
	if counter == nil || timer == nil {
		counter, timer = m.resolve(key)
	}
	counter.Inc()
	timer.Observe(took.Seconds())
}

func (m *Metrics) resolve(key callLabels) (prometheus.Counter, prometheus.Observer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	counter := m.calls.WithLabelValues(key.tool, key.code, key.reason)
	timer := m.seconds.WithLabelValues(key.tool)
	m.counters[key], m.timers[key.tool] = counter, timer
	return counter, timer
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
	} {
		knownReasons[r] = true
	}
}

func knownCause(cause string) string {
	switch cause {
	case "KILLED", "EXITED", "SETUP_FAILED", "STARTUP_TIMEOUT", "STOPPED", causeCallTimeout:
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
	f := c.pool.Facts()
	for name, value := range map[string]int{
		"queue": f.Queued, "flight": f.Running, "demand": f.Queued + f.Running, "sessions": f.Sessions, "wanted": f.Wanted,
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
