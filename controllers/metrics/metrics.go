// Package metrics tells Prometheus what the operator did, and what it sees of pools and workers.
//
// What it did is counted where it happens. What it sees is read from the cache when somebody scrapes, by the leader alone: nothing is left
// behind when a pool is gone, and no pool is told twice. It decides nothing.
package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Values of the label kind.
const (
	KindPool  = "WorkerPool"
	KindGroup = "WorkerGroup"
	KindPod   = "Pod"
)

// Metrics of the operator. Its methods are safe for concurrent use; those of a nil *Metrics count nothing.
type Metrics struct {
	poolReady prometheus.Histogram
	podReady  prometheus.Histogram
	cleanup   *prometheus.HistogramVec
	orphans   prometheus.Counter
	forced    prometheus.Counter
	refused   *prometheus.CounterVec
	state     *state

	mu sync.Mutex
	// started is the last pod of each group whose start was counted: a pod that is Ready again after its node came back did not start.
	started map[types.UID]types.UID
}

// New registers the metrics. What is read from the cache is told after Watch.
func New(r prometheus.Registerer) *Metrics {
	durations := prometheus.ExponentialBuckets(0.25, 2, 13) // 0.25 s to 17 min
	m := &Metrics{
		poolReady: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "snakepit_operator_pool_ready_duration_seconds", Buckets: durations,
			Help: "Time from a pool's creation or change (condition Reconciling, whole seconds) until it was Ready and had reached it."}),
		podReady: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "snakepit_operator_pod_ready_duration_seconds", Buckets: durations,
			Help: "Time from the creation of a group's pod until the operator saw it Ready for the first time."}),
		cleanup: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "snakepit_operator_cleanup_duration_seconds", Buckets: durations,
			Help: "Time from the deletion of a pool or group until it was proven that nothing of it is left, drain included, by kind."}, []string{"kind"}),
		orphans: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "snakepit_orphans_found_total", Help: "Objects whose owner was gone, which the sweep removed; it should stay 0."}),
		forced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "snakepit_operator_forced_cleanups_total", Help: "Pods that were removed without proof of their end; processes of them may still run."}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "snakepit_operator_writes_refused_total",
			Help: "Writes that the API server understood and did not allow (quota, policy, missing rights), by kind of object; each is tried again."}, []string{"kind"}),
		state:   newState(),
		started: map[types.UID]types.UID{},
	}
	for _, kind := range []string{KindPool, KindGroup} {
		m.cleanup.WithLabelValues(kind)
	}
	r.MustRegister(m.poolReady, m.podReady, m.cleanup, m.orphans, m.forced, m.refused, m.state)
	return m
}

// Watch tells where pools and groups are read from, once elected is closed.
func (m *Metrics) Watch(cache client.Reader, elected <-chan struct{}) {
	if m != nil {
		m.state.source.Store(&source{cache, elected})
	}
}

// PoolReady counts a pool that reached Ready since its creation or change.
func (m *Metrics) PoolReady(took time.Duration) {
	if m != nil {
		m.poolReady.Observe(took.Seconds())
	}
}

// PodReady counts the start of a group's pod, once for each pod.
func (m *Metrics) PodReady(group, pod types.UID, took time.Duration) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started[group] != pod {
		m.started[group] = pod
		m.podReady.Observe(took.Seconds())
	}
}

// Released counts the end of a pool or group: kind is KindPool or KindGroup.
func (m *Metrics) Released(kind string, uid types.UID, took time.Duration) {
	if m == nil {
		return
	}
	m.cleanup.WithLabelValues(kind).Observe(took.Seconds())
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.started, uid)
}

// Forced counts a pod that was removed without proof of its end.
func (m *Metrics) Forced() {
	if m != nil {
		m.forced.Inc()
	}
}

// Refused counts a write that was not allowed. Kinds are those of the operator's own code, never a user's text.
func (m *Metrics) Refused(kind string) {
	if m != nil {
		m.refused.WithLabelValues(kind).Inc()
	}
}

// Orphan counts an object that the sweep removed.
func (m *Metrics) Orphan() {
	if m != nil {
		m.orphans.Inc()
	}
}
