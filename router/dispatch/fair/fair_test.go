package fair

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// model is the same rule without heaps: tags by name, items in one slice a queue.
type model struct {
	shares  map[string]int
	start   map[string]uint64
	waiting map[string]int
	virtual uint64
	queues  [2][]*Item
	names   map[*Item]string
}

func (m *model) weight(name string) int { return max(m.shares[name], 1) }

// due is the item that the rule names, by looking at every one.
func (m *model) due(q int) *Item {
	var best *Item
	for _, x := range m.queues[q] {
		if best == nil {
			best = x
			continue
		}
		a, b := m.start[m.names[x]], m.start[m.names[best]]
		if a < b || a == b && x.Seq < best.Seq {
			best = x
		}
	}
	return best
}

func (m *model) remove(x *Item) {
	for q := range m.queues {
		m.queues[q] = slices.DeleteFunc(m.queues[q], func(y *Item) bool { return y == x })
	}
	m.waiting[m.names[x]]--
}

func (m *model) serve(name string) {
	if m.virtual > maxLag {
		m.start[name] = max(m.start[name], m.virtual-maxLag)
	}
	m.virtual = max(m.virtual, m.start[name])
	m.start[name] += unit / uint64(m.weight(name))
}

func TestQueuesEqualTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{shares: map[string]int{"b": 3, "c": 1000}, start: map[string]uint64{}, waiting: map[string]int{}, names: map[*Item]string{}}
		ts := NewTenants()
		ts.SetShares(m.shares)
		var queues [2]Queue
		seq := uint64(1000)
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				name, q := rapid.SampledFrom([]string{"", "a", "b", "c", "d"}).Draw(t, "tenant"), rapid.IntRange(0, 1).Draw(t, "queue")
				seq++
				x := &Item{Seq: seq}
				again := rapid.IntRange(0, 4).Draw(t, "again") == 0
				if again {
					x.Seq = uint64(rapid.IntRange(0, 999).Draw(t, "seq"))*1_000_000 + seq // in the middle, and differing
				}
				if m.waiting[name] == 0 {
					m.start[name] = max(m.start[name], m.virtual)
				}
				m.waiting[name]++
				m.names[x] = name
				m.queues[q] = append(m.queues[q], x)
				ts.Wait(x, ts.Tenant(name), again)
				queues[q].Push(x)
			},
			"serve": func(t *rapid.T) {
				q := rapid.IntRange(0, 1).Draw(t, "queue")
				x := queues[q].Head()
				if x == nil {
					t.Skip("empty")
				}
				m.serve(m.names[x])
				m.remove(x)
				ts.Serve(x)
				x.Remove()
				ts.Leave(x)
			},
			"leave": func(t *rapid.T) {
				all := append(append([]*Item(nil), m.queues[0]...), m.queues[1]...)
				if len(all) == 0 {
					t.Skip("empty")
				}
				x := all[rapid.IntRange(0, len(all)-1).Draw(t, "which")]
				m.remove(x)
				x.Remove()
				ts.Leave(x)
			},
			"": func(t *rapid.T) {
				for q := range queues {
					if want := m.due(q); queues[q].Head() != want || queues[q].Len() != len(m.queues[q]) {
						t.Fatalf("queue %d: %v is due, want %v", q, queues[q].Head(), want)
					}
				}
				weight := 0
				for name, n := range m.waiting {
					if n > 0 {
						weight += m.weight(name)
					}
					if got := ts.Tenant(name).Waiting(); got != n {
						t.Fatalf("%q: %d wait, want %d", name, got, n)
					}
				}
				if ts.weight != weight {
					t.Fatalf("weight %d, want %d", ts.weight, weight)
				}
			},
		})
	})
}

// A tenant that always has something waiting is served its share, however much the others ask for, and waits a bounded number of services.
func TestSharesAreKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 8).Draw(t, "tenants")
		shares, served, last, total := map[string]int{}, map[string]int{}, map[string]int{}, 0
		ts := NewTenants()
		for i := range n {
			name := fmt.Sprint("t", i)
			shares[name] = rapid.IntRange(1, 20).Draw(t, "weight")
			total += shares[name]
		}
		ts.SetShares(shares)
		var q Queue
		seq := uint64(0)
		push := func(name string) {
			seq++
			x := &Item{Seq: seq, Value: name}
			ts.Wait(x, ts.Tenant(name), false)
			q.Push(x)
		}
		for name := range shares { // the crowd of each is different
			for range rapid.IntRange(1, 100).Draw(t, "crowd") {
				push(name)
			}
		}
		rounds := 50 * total
		for i := range rounds {
			x := q.Head()
			name := x.Value.(string)
			ts.Serve(x)
			x.Remove()
			ts.Leave(x)
			push(name)
			if gap, bound := i-last[name], total/shares[name]+n+1; gap > bound {
				t.Fatalf("%s of weight %d of %d waited for %d services, at most %d", name, shares[name], total, gap, bound)
			}
			last[name] = i
			served[name]++
		}
		for name, weight := range shares {
			if want := rounds * weight / total; served[name] < want-n-1 || served[name] > want+n+1 {
				t.Fatalf("%s: %d of %d, want %d", name, served[name], rounds, want)
			}
		}
	})
}

// One that asks for 100 times as much as its share gives way to one below its share, and never the other way round.
func TestTheFullQueueEvictsWhoIsFurthestAboveItsShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 20
		shares := map[string]int{"a": rapid.IntRange(1, 9).Draw(t, "a"), "b": rapid.IntRange(1, 9).Draw(t, "b")}
		ts := NewTenants()
		ts.SetShares(shares)
		var waiting []*Item
		for i := range size {
			x := &Item{Seq: uint64(i), Value: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "tenant")}
			ts.Wait(x, ts.Tenant(x.Value.(string)), false)
			waiting = append(waiting, x)
		}
		arriving := ts.Tenant(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "arriving"))
		total := 0
		for _, name := range []string{"a", "b", "c"} {
			if ts.Tenant(name).Waiting() > 0 || ts.Tenant(name) == arriving {
				total += max(shares[name], 1)
			}
		}
		over := func(x *Tenant, more int) bool { return (x.waiting+more)*total > size*x.weight }
		got := ts.Evict(arriving, size)
		if over(arriving, 1) != (got == nil) {
			t.Fatalf("%q has %d of %d at weight %d of %d: evicts %v", arriving.name, arriving.waiting, size, arriving.weight, total, got)
		}
		if got == nil {
			return
		}
		if !over(got.tenant, 0) {
			t.Fatalf("evicted from %q, which is not above its share", got.tenant.name)
		}
		for _, x := range waiting {
			if x.tenant == got.tenant && x.Seq > got.Seq {
				t.Fatal("evicted one that is not the newest")
			}
			if x.tenant.waiting*got.tenant.weight > got.tenant.waiting*x.tenant.weight {
				t.Fatalf("evicted from %q, %q is further above its share", got.tenant.name, x.tenant.name)
			}
		}
	})
}

func TestTooManyTenantsAreOne(t *testing.T) {
	ts := NewTenants()
	var held []*Item
	for i := range MaxTenants {
		x := &Item{Seq: uint64(i)}
		ts.Wait(x, ts.Tenant(fmt.Sprint(i)), false)
		held = append(held, x)
	}
	if ts.Tenant("one more") != ts.Tenant("") {
		t.Fatal("told apart more tenants than it may")
	}
	if ts.Tenant(strings.Repeat("x", MaxNameBytes+1)) != ts.Tenant("") {
		t.Fatal("keeps a long name")
	}
	for _, x := range held {
		ts.Leave(x)
	}
	if ts.Tenant("one more") == ts.Tenant("") || len(ts.named) != MaxTenants || len(ts.list) != MaxTenants {
		t.Fatalf("%d tenants are kept when none of them waits", len(ts.named))
	}
}

// A tenant whose items could not be served for long gets no more than a few before the others.
func TestNobodyIsOwedMuch(t *testing.T) {
	ts := NewTenants()
	var stuck, q Queue
	seq := uint64(0)
	add := func(q *Queue, name string) {
		seq++
		x := &Item{Seq: seq, Value: name}
		ts.Wait(x, ts.Tenant(name), false)
		q.Push(x)
	}
	serve := func(q *Queue) string {
		x := q.Head()
		ts.Serve(x)
		x.Remove()
		ts.Leave(x)
		return x.Value.(string)
	}
	add(&stuck, "a")
	for range 1000 {
		add(&q, "b")
		serve(&q)
	}
	for range 100 {
		add(&q, "a")
		add(&q, "b")
	}
	first := 0
	for serve(&q) == "a" {
		first++
	}
	if first > maxLag/unit+1 {
		t.Fatalf("%d in a row", first)
	}
}
