package dispatch

// queue is an intrusive list of calls in order of arrival.
type queue struct {
	head, tail *Call
	n          int
}

// insert puts the call at its place by arrival; a new call is the last.
func (q *queue) insert(c *Call) {
	after := q.tail
	for after != nil && after.seq > c.seq {
		after = after.prev
	}
	c.in, c.prev = q, after
	if after == nil {
		c.next = q.head
		q.head = c
	} else {
		c.next = after.next
		after.next = c
	}
	if c.next == nil {
		q.tail = c
	} else {
		c.next.prev = c
	}
	q.n++
}

func (q *queue) remove(c *Call) {
	if c.prev == nil {
		q.head = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		q.tail = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.in, c.prev, c.next = nil, nil, nil
	q.n--
}
