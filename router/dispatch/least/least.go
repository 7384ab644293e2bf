// Package least finds the smallest of 256 keys: a tournament tree in one array, without allocations.
package least

// Size is the number of places.
const Size = 256

// Absent is the key of an empty place; no other key may be as large.
const Absent = ^uint64(0)

// Tree holds a key for each place. Make it with New. It is not safe for concurrent use.
type Tree struct {
	nodes [2 * Size]uint64 // the root is 1, the places begin at Size
}

// New makes a tree of empty places.
func New() *Tree {
	t := &Tree{}
	for i := range t.nodes {
		t.nodes[i] = Absent
	}
	return t
}

// Set gives the place (below Size) its key; Absent empties it.
func (t *Tree) Set(place int, key uint64) {
	i := place + Size
	if t.nodes[i] == key {
		return
	}
	t.nodes[i] = key
	for i > 1 {
		smaller := min(t.nodes[i], t.nodes[i^1])
		i /= 2
		if t.nodes[i] == smaller {
			return
		}
		t.nodes[i] = smaller
	}
}

// Min is the smallest key, Absent when every place is empty.
func (t *Tree) Min() uint64 { return t.nodes[1] }
