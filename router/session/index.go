package session

import "hash/maphash"

const (
	shardBits = 8
	minShard  = 8 // slots of a shard that is not empty; a power of two
)

// index finds lives by name. It needs about a third of the memory of a map, because the names are in the lives, and it gives memory back.
// It grows one shard at a time, so that no call waits while a million entries move.
// The seed is random, so that callers cannot choose names that collide; nothing that can be observed depends on it.
type index struct {
	seed   maphash.Seed
	n      int
	shards [1 << shardBits]shard
}

// shard is a hash table with linear probing.
type shard struct {
	slots []*Life
	n     int
}

func newIndex() *index { return &index{seed: maphash.MakeSeed()} }

func (x *index) shard(name string) (*shard, uint64) {
	h := maphash.String(x.seed, name)
	return &x.shards[h>>(64-shardBits)], h
}

// get is the life of that name, or nil.
func (x *index) get(name string) *Life {
	s, h := x.shard(name)
	if len(s.slots) == 0 {
		return nil
	}
	mask := uint64(len(s.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		if l := s.slots[i]; l == nil || l.name == name {
			return l
		}
	}
}

// put enters a life, in the place of one with the same name if there is one.
func (x *index) put(l *Life) {
	s, h := x.shard(l.name)
	if 4*(s.n+1) > 3*len(s.slots) {
		x.resize(s, max(2*len(s.slots), minShard))
	}
	if s.insert(l, h) {
		s.n++
		x.n++
	}
}

// remove takes out this very life; another one of the same name stays.
func (x *index) remove(l *Life) {
	s, h := x.shard(l.name)
	if len(s.slots) == 0 {
		return
	}
	mask := uint64(len(s.slots) - 1)
	i := h & mask
	for ; s.slots[i] != l; i = (i + 1) & mask {
		if s.slots[i] == nil {
			return
		}
	}
	s.n--
	x.n--
	// Those behind it move up, unless they are at or before their own place.
	for j := (i + 1) & mask; s.slots[j] != nil; j = (j + 1) & mask {
		home := maphash.String(x.seed, s.slots[j].name) & mask
		if (j-home)&mask >= (j-i)&mask {
			s.slots[i] = s.slots[j]
			i = j
		}
	}
	s.slots[i] = nil
	if len(s.slots) > minShard && 8*s.n < len(s.slots) {
		x.resize(s, len(s.slots)/2)
	}
}

// insert reports whether the name is new.
func (s *shard) insert(l *Life, h uint64) bool {
	mask := uint64(len(s.slots) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		if other := s.slots[i]; other == nil || other.name == l.name {
			s.slots[i] = l
			return other == nil
		}
	}
}

func (x *index) resize(s *shard, slots int) {
	old := s.slots
	s.slots = make([]*Life, slots)
	for _, l := range old {
		if l != nil {
			s.insert(l, maphash.String(x.seed, l.name))
		}
	}
}
