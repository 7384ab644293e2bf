package metrics

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// patience bounds the look at the cache: one that is not filled yet must not hold up a scrape.
const patience = 2 * time.Second

type source struct {
	cache   client.Reader
	elected <-chan struct{}
}

// state reads pools and groups when it is scraped.
type state struct {
	source atomic.Pointer[source]

	pools, ready, stalled, wanted, workers *prometheus.Desc
}

func newState() *state {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("snakepit_operator_"+name, help, labels, nil)
	}
	return &state{
		pools:   desc("pools", "Pools by condition, its status and reason. Only the leader tells.", "condition", "status", "reason"),
		ready:   desc("pool_ready", "1 when the pool's condition Ready is True, else 0. Only the leader tells.", "namespace", "pool"),
		stalled: desc("pool_stalled", "1 for a pool that waits for somebody to act, by reason; absent for others. Only the leader tells.", "namespace", "pool", "reason"),
		wanted:  desc("workers_wanted", "Workers that a pool wants. Only the leader tells.", "namespace", "pool"),
		workers: desc("workers", "Workers of a pool by state, as its routers reported them; at most seconds old. Only the leader tells.", "namespace", "pool", "state"),
	}
}

// Describe implements prometheus.Collector.
func (s *state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.pools, s.ready, s.stalled, s.wanted, s.workers} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. Who does not lead tells nothing, and a cache that is not filled yet neither.
func (s *state) Collect(ch chan<- prometheus.Metric) {
	from := s.source.Load()
	if from == nil {
		return
	}
	select {
	case <-from.elected:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var pools v1alpha1.WorkerPoolList
	var groups v1alpha1.WorkerGroupList
	if from.cache.List(ctx, &pools, client.UnsafeDisableDeepCopy) != nil || from.cache.List(ctx, &groups, client.UnsafeDisableDeepCopy) != nil {
		return
	}
	s.tellPools(ch, pools.Items)
	s.tellWorkers(ch, pools.Items, groups.Items)
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, value float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func (s *state) tellPools(ch chan<- prometheus.Metric, pools []v1alpha1.WorkerPool) {
	type row struct{ condition, status, reason string }
	rows := map[row]int{}
	for i := range pools {
		pool := &pools[i]
		for _, c := range pool.Status.Conditions {
			rows[row{c.Type, string(c.Status), c.Reason}]++
		}
		ready := 0.0
		if meta.IsStatusConditionTrue(pool.Status.Conditions, v1alpha1.ConditionReady) {
			ready = 1
		}
		gauge(ch, s.ready, ready, pool.Namespace, pool.Name)
		gauge(ch, s.wanted, float64(pool.Spec.Workers), pool.Namespace, pool.Name)
		if c := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionStalled); c != nil && c.Status == metav1.ConditionTrue {
			gauge(ch, s.stalled, 1, pool.Namespace, pool.Name, c.Reason)
		}
	}
	for r, n := range rows {
		gauge(ch, s.pools, float64(n), r.condition, r.status, r.reason)
	}
}

// states are told for every pool, 0 included, so that a query finds the state before the first worker is in it.
var states = []v1alpha1.WorkerState{
	v1alpha1.WorkerStarting, v1alpha1.WorkerReady, v1alpha1.WorkerDraining, v1alpha1.WorkerSuspect, v1alpha1.WorkerFailed,
}

func (s *state) tellWorkers(ch chan<- prometheus.Metric, pools []v1alpha1.WorkerPool, groups []v1alpha1.WorkerGroup) {
	type key struct{ namespace, pool string }
	counts := make(map[key]map[v1alpha1.WorkerState]int, len(pools))
	for i := range groups {
		group := &groups[i]
		router := group.Status.Router
		// What a router wrote counts only while its pod is the group's current one.
		if router == nil || router.PodUID == "" || router.PodUID != group.Spec.PodUID {
			continue
		}
		k := key{group.Namespace, group.Labels[v1alpha1.LabelPool]}
		if counts[k] == nil {
			counts[k] = map[v1alpha1.WorkerState]int{}
		}
		for _, w := range router.Workers {
			counts[k][w.State]++
		}
	}
	for i := range pools {
		k := key{pools[i].Namespace, pools[i].Name}
		for _, state := range states {
			gauge(ch, s.workers, float64(counts[k][state]), k.namespace, k.pool, string(state))
		}
	}
}
