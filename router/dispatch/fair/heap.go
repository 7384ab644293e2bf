package fair

// ranked is an element of a heap: it knows its order and keeps its own place.
type ranked[T any] interface {
	before(T) bool
	at() *int
}

// heap is a binary heap whose elements can be moved and removed by their place.
type heap[T ranked[T]] []T

func (h *heap[T]) push(x T) {
	*x.at() = len(*h)
	*h = append(*h, x)
	h.up(len(*h) - 1)
}

// fix restores the order after the element at i changed.
func (h heap[T]) fix(i int) {
	if !h.down(i) {
		h.up(i)
	}
}

func (h *heap[T]) remove(i int) {
	last := len(*h) - 1
	if i != last {
		h.swap(i, last)
	}
	*(*h)[last].at() = -1
	var none T
	(*h)[last] = none
	*h = (*h)[:last]
	if i != last {
		h.fix(i)
	}
}

func (h heap[T]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h[i].before(h[parent]) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h heap[T]) down(i int) bool {
	start := i
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if right := child + 1; right < len(h) && h[right].before(h[child]) {
			child = right
		}
		if !h[child].before(h[i]) {
			break
		}
		h.swap(i, child)
		i = child
	}
	return i > start
}

func (h heap[T]) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	*h[i].at(), *h[j].at() = i, j
}
