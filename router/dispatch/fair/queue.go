package fair

// keep bounds the tenants without items whose entry a queue keeps for the next one.
const keep = 16

// Queue orders items by the start tags of their tenants, and those of one tenant by Seq. Its zero value is empty.
type Queue struct {
	due    heap[*entry]
	by     map[*Tenant]*entry
	recent *entry
	n      int
}

// entry is one tenant in one queue.
type entry struct {
	tenant     *Tenant
	start      uint64 // as it was when it was last compared: the tenant's own only grows
	head, tail *Item
	place      int
}

func (e *entry) at() *int { return &e.place }

func (e *entry) before(o *entry) bool {
	return e.start < o.start || e.start == o.start && e.head.Seq < o.head.Seq
}

// Len counts the items.
func (q *Queue) Len() int { return q.n }

// Last is the item of the tenant that would be served last of its items here, or nil.
func (q *Queue) Last(t *Tenant) *Item {
	if e := q.by[t]; e != nil {
		return e.tail
	}
	return nil
}

// Queue that holds the item, or nil.
func (x *Item) Queue() *Queue { return x.queue }

// Push puts an item in, which waits (Tenants.Wait). It is cheap at both ends of what its tenant has here.
func (q *Queue) Push(x *Item) {
	e := q.entry(x.tenant)
	x.queue, x.entry = q, e
	q.n++
	after := e.tail
	if e.head != nil && x.Seq < e.head.Seq {
		after = nil
	}
	for after != nil && after.Seq > x.Seq {
		after = after.prev
	}
	x.prev = after
	if after == nil {
		x.next, e.head = e.head, x
	} else {
		x.next, after.next = after.next, x
	}
	if x.next == nil {
		e.tail = x
	} else {
		x.next.prev = x
	}
	switch {
	case e.place < 0:
		e.start = e.tenant.start
		q.due.push(e)
	case e.head == x:
		q.due.fix(e.place)
	}
}

// Remove takes the item out of the queue that holds it.
func (x *Item) Remove() {
	q, e := x.queue, x.entry
	first := e.head == x
	if first {
		e.head = x.next
	} else {
		x.prev.next = x.next
	}
	if x.next == nil {
		e.tail = x.prev
	} else {
		x.next.prev = x.prev
	}
	x.queue, x.entry, x.prev, x.next = nil, nil, nil, nil
	q.n--
	switch {
	case e.head == nil:
		q.due.remove(e.place)
		if len(q.by) > keep {
			delete(q.by, e.tenant)
			if q.recent == e {
				q.recent = nil
			}
		}
	case first:
		q.due.fix(e.place)
	}
}

// Head is the item that is due first, or nil.
func (q *Queue) Head() *Item {
	for len(q.due) > 0 {
		e := q.due[0]
		if e.start == e.tenant.start {
			return e.head
		}
		e.start = e.tenant.start // served from another queue, or from this one, since
		q.due.fix(0)
	}
	return nil
}

func (q *Queue) entry(t *Tenant) *entry {
	if q.recent != nil && q.recent.tenant == t {
		return q.recent
	}
	e := q.by[t]
	if e == nil {
		e = &entry{tenant: t, place: -1}
		if q.by == nil {
			q.by = map[*Tenant]*entry{}
		}
		q.by[t] = e
	}
	q.recent = e
	return e
}
