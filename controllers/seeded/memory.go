package seeded

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// Memory is all that an operator with the bug StateInMemory knows of the groups that it made: its successor knows none. Without the bug it holds
// nothing, and knows every group. It is safe for concurrent use.
type Memory struct{ made sync.Map }

// Made notes that this operator made the group.
func (m *Memory) Made(uid types.UID) {
	if StateInMemory {
		m.made.Store(uid, true)
	}
}

// Knows says whether this operator made the group.
func (m *Memory) Knows(uid types.UID) bool {
	if !StateInMemory {
		return true
	}
	_, ok := m.made.Load(uid)
	return ok
}
