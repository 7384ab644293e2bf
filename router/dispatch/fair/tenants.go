package fair

// Bounds.
const (
	MaxTenants   = 1024 // that are told apart; further ones count as the common tenant
	MaxNameBytes = 128  // of a tenant that is told apart
	MaxWeight    = 1000
)

const (
	unit   = 1 << 20  // one item of a tenant of weight 1, in virtual time
	maxLag = 8 * unit // the most that a tenant is owed
)

// Item is one thing that waits. It is embedded in what it stands for; Seq orders the items of one tenant.
type Item struct {
	Value any
	Seq   uint64

	tenant       *Tenant
	older, newer *Item // of the tenant
	queue        *Queue
	entry        *entry
	prev, next   *Item // of the tenant in the queue
}

// Tenant is one that shares the capacity.
type Tenant struct {
	name    string
	weight  int
	start   uint64
	waiting int
	oldest  *Item
	newest  *Item
	place   int // in Tenants.crowd
}

// Waiting counts its items that wait, in all queues and outside.
func (t *Tenant) Waiting() int { return t.waiting }

func (t *Tenant) at() *int { return &t.place }

// before: the tenant that is furthest above its share comes first.
func (t *Tenant) before(o *Tenant) bool {
	a, b := t.waiting*o.weight, o.waiting*t.weight
	return a > b || a == b && t.name < o.name
}

// Tenants are all that share the capacity.
type Tenants struct {
	shares  map[string]int
	named   map[string]*Tenant
	list    []*Tenant // of named
	hand    int       // in list: where the search for one to forget goes on
	common  *Tenant
	virtual uint64
	weight  int           // of the tenants that wait
	crowd   heap[*Tenant] // that wait
}

// NewTenants makes the common tenant only.
func NewTenants() *Tenants {
	return &Tenants{named: map[string]*Tenant{}, common: &Tenant{weight: 1, place: -1}}
}

// SetShares follows new weights, by name; one that is not listed has the weight 1, and "" is the common tenant.
func (ts *Tenants) SetShares(shares map[string]int) {
	ts.shares = shares
	ts.reweigh(ts.common)
	for _, t := range ts.list {
		ts.reweigh(t)
	}
}

func (ts *Tenants) reweigh(t *Tenant) {
	weight := ts.weightOf(t.name)
	if t.place >= 0 {
		ts.weight += weight - t.weight
	}
	t.weight = weight
	if t.place >= 0 {
		ts.crowd.fix(t.place)
	}
}

func (ts *Tenants) weightOf(name string) int { return min(max(ts.shares[name], 1), MaxWeight) }

// Tenant of that name; the common one for "", for a name that is too long, and once there are too many.
func (ts *Tenants) Tenant(name string) *Tenant {
	if name == "" || len(name) > MaxNameBytes {
		return ts.common
	}
	if t := ts.named[name]; t != nil {
		return t
	}
	i := len(ts.list)
	if i < MaxTenants {
		ts.list = append(ts.list, nil)
	} else if i = ts.forgettable(); i >= 0 {
		delete(ts.named, ts.list[i].name)
	} else {
		return ts.common
	}
	t := &Tenant{name: name, weight: ts.weightOf(name), place: -1}
	ts.list[i], ts.named[name] = t, t
	return t
}

// forgettable looks at a few tenants for one that would be treated the same if it were new: nothing of it waits, and it owes nothing.
func (ts *Tenants) forgettable() int {
	for range 8 {
		ts.hand = (ts.hand + 1) % len(ts.list)
		if t := ts.list[ts.hand]; t.waiting == 0 && t.start <= ts.virtual {
			return ts.hand
		}
	}
	return -1
}

// Wait counts an item of the tenant as waiting. Again says that it waited before: it counts as the oldest.
func (ts *Tenants) Wait(x *Item, t *Tenant, again bool) {
	x.tenant = t
	switch {
	case t.oldest == nil:
		t.oldest, t.newest = x, x
	case again:
		x.newer, t.oldest.older, t.oldest = t.oldest, x, x
	default:
		x.older, t.newest.newer, t.newest = t.newest, x, x
	}
	t.waiting++
	if t.waiting == 1 {
		t.start = max(t.start, ts.virtual)
		ts.weight += t.weight
		ts.crowd.push(t)
		return
	}
	ts.crowd.fix(t.place)
}

// Leave counts an item out; it must not be in a queue any more.
func (ts *Tenants) Leave(x *Item) {
	t := x.tenant
	if x.older != nil {
		x.older.newer = x.newer
	} else {
		t.oldest = x.newer
	}
	if x.newer != nil {
		x.newer.older = x.older
	} else {
		t.newest = x.older
	}
	x.older, x.newer = nil, nil
	t.waiting--
	if t.waiting == 0 {
		ts.weight -= t.weight
		ts.crowd.remove(t.place)
		return
	}
	ts.crowd.fix(t.place)
}

// Serve charges the item's tenant for it.
func (ts *Tenants) Serve(x *Item) {
	t := x.tenant
	if ts.virtual > maxLag {
		t.start = max(t.start, ts.virtual-maxLag)
	}
	ts.virtual = max(ts.virtual, t.start)
	t.start += unit / uint64(t.weight)
}

// Evict finds the item that gives way to one of the tenant when size items fill every place: the newest of the tenant furthest above its share.
// It is nil when the tenant has its share already.
func (ts *Tenants) Evict(t *Tenant, size int) *Item {
	weight := ts.weight
	if t.waiting == 0 {
		weight += t.weight
	}
	if len(ts.crowd) == 0 || (t.waiting+1)*weight > size*t.weight {
		return nil
	}
	if top := ts.crowd[0]; top != t && top.waiting*weight > size*top.weight {
		return top.newest
	}
	return nil
}

// Ahead estimates how many items are served before one that the tenant would add now: never more than wait in all.
func (ts *Tenants) Ahead(t *Tenant, all int) int {
	weight := ts.weight
	if t.waiting == 0 {
		weight += t.weight
	}
	return min(t.waiting*weight/t.weight, all)
}

// Before says which of two items of any queues is due first.
func Before(a, b *Item) bool {
	if a.tenant.start != b.tenant.start {
		return a.tenant.start < b.tenant.start
	}
	return a.Seq < b.Seq
}

// Same says that both are of one tenant.
func Same(a, b *Item) bool { return a.tenant == b.tenant }

// Owed is by how many items of a tenant of weight 1 the first's tenant is behind the second's; 0 when it is not.
func Owed(a, b *Item) uint64 {
	if a.tenant.start >= b.tenant.start {
		return 0
	}
	return (b.tenant.start - a.tenant.start) / unit
}
