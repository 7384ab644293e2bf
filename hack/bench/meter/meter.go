// Package meter reads what client, system and machine use while a loop runs.
package meter

import (
	"errors"
	"runtime"
	"time"

	"github.com/snakepit-k8s/snakepit/hack/bench/load"
	"github.com/snakepit-k8s/snakepit/hack/bench/report"
	"github.com/snakepit-k8s/snakepit/hack/bench/system"
)

// Meter reads what everybody has used at both ends of a window.
type Meter struct {
	at  [2]reading
	err error
}

type reading struct {
	system       system.Usage
	client, busy time.Duration
	when         time.Time
}

// Probe is for the loop; it reads at both ends.
func (m *Meter) Probe(of *system.System) load.Probe {
	return func(begin bool) {
		r := &m.at[1]
		if begin {
			r = &m.at[0]
		}
		var errs [3]error
		r.when = time.Now()
		r.system, errs[0] = of.Usage()
		r.client, errs[1] = system.Own()
		r.busy, errs[2] = system.Busy()
		m.err = errors.Join(m.err, errors.Join(errs[:]...))
	}
}

// Measure turns readings and latencies into what is told. It fails when a reading failed, or when no call ended.
func (m *Meter) Measure(of *system.System, sample load.Sample) (report.Measure, error) {
	calls := len(sample.Latencies)
	if m.err != nil {
		return report.Measure{}, m.err
	}
	if calls == 0 {
		return report.Measure{}, errors.New("no call ended within the window")
	}
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	each := func(d time.Duration) float64 { return micros(d) / float64(calls) }
	begin, end := m.at[0], m.at[1]
	router, workers, client := end.system.Router-begin.system.Router, end.system.Workers-begin.system.Workers, end.client-begin.client
	all := end.when.Sub(begin.when).Seconds() * float64(runtime.NumCPU())
	busy := (end.busy - begin.busy).Seconds()
	rss, pss, err := of.Memory()
	return report.Measure{
		Calls: calls, PerSecond: float64(calls) / sample.Window.Seconds(), Late: micros(sample.Late),
		P50: micros(load.Percentile(sample.Latencies, 0.5)), P99: micros(load.Percentile(sample.Latencies, 0.99)), P999: micros(load.Percentile(sample.Latencies, 0.999)),
		ServerCPU: each(router + workers), RouterCPU: each(router), WorkersCPU: each(workers), ClientCPU: each(client),
		RSS: float64(rss) / (1 << 20), PSS: float64(pss) / (1 << 20),
		Foreign: max(0, busy-(router+workers+client).Seconds()) / all, Idle: max(0, 1-busy/all),
	}, err
}
