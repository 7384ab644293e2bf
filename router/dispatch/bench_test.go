package dispatch

import (
	"fmt"
	"testing"
	"time"

	"github.com/snakepit-k8s/snakepit/router/session"
)

// bench is a dispatcher with as many ready workers, whose calls end as soon as the next is admitted.
func bench(b testing.TB, workers, slots int, s Settings) *Dispatcher {
	b.Helper()
	now := time.Unix(1_700_000_000, 0)
	d := New("pod", s, now)
	d.Supervised(now)
	d.SetWanted(workers, now)
	for i := range workers {
		d.Up(d.Started(session.Worker{Slot: uint16(i), Nonce: uint64(i) + 1}, nil), slots, true, now)
	}
	d.Actions()
	return d
}

func benchSettings() Settings {
	return Settings{Affinity: StrictQueue, Implicit: true, MaxPerWorker: 1 << 20, IdleTimeout: time.Hour, MaxLength: 1000, PerSession: 16,
		QueueTimeout: 10 * time.Second, PrefetchBelow: 2 * time.Millisecond}
}

// cycle admits calls in a closed loop of so many outstanding; each benchmark operation is one call from Admit to Finished.
func cycle(b *testing.B, d *Dispatcher, outstanding int, name func(i int) string) {
	now := time.Unix(1_700_000_000, 0)
	pool := make([]Call, outstanding)
	begun := make([]*Call, 1024) // a ring
	head, tail := 0, 0
	note := func() {
		for _, a := range d.Actions() {
			if a.Kind == Run {
				begun[tail%len(begun)] = a.Call
				tail++
			}
		}
	}
	admit := func(i int, c *Call) {
		*c = Call{Session: name(i)}
		d.Aim(c, "/demo.Echo/Unary")
		d.Admit(c, now)
		note()
	}
	for i := range pool {
		admit(i, &pool[i])
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		c := begun[head%len(begun)]
		head++
		now = now.Add(10 * time.Microsecond)
		d.Accepted(c, now)
		note()
		d.Finished(c, now)
		note()
		admit(i, c)
	}
}

func BenchmarkDispatchUnary(b *testing.B) {
	for _, c := range []struct{ workers, slots, outstanding int }{{4, 1, 1}, {4, 1, 8}, {4, 1, 64}, {256, 1, 512}, {16, 16, 512}} {
		b.Run(fmt.Sprintf("workers=%d/slots=%d/outstanding=%d", c.workers, c.slots, c.outstanding), func(b *testing.B) {
			cycle(b, bench(b, c.workers, c.slots, benchSettings()), c.outstanding, func(int) string { return "" })
		})
	}
}

func BenchmarkDispatchSession(b *testing.B) {
	names := make([]string, 256)
	for i := range names {
		names[i] = fmt.Sprintf("user-%d", i)
	}
	for _, c := range []struct{ workers, slots, outstanding int }{{4, 1, 1}, {4, 1, 64}, {16, 16, 512}} {
		b.Run(fmt.Sprintf("workers=%d/slots=%d/outstanding=%d", c.workers, c.slots, c.outstanding), func(b *testing.B) {
			cycle(b, bench(b, c.workers, c.slots, benchSettings()), c.outstanding, func(i int) string { return names[i%len(names)] })
		})
	}
}

// Refusals at a full queue must be cheap: they are most of the work under overload.
func BenchmarkDispatchRefuse(b *testing.B) {
	d := bench(b, 4, 1, benchSettings())
	now := time.Unix(1_700_000_000, 0)
	for range 2000 {
		d.Admit(&Call{}, now)
	}
	d.Actions()
	b.ReportAllocs()
	var c Call
	for b.Loop() {
		c = Call{}
		d.Admit(&c, now)
		d.Actions()
	}
}
