//go:build seeded_state_in_memory

package seeded

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// Memory is all that an operator knows of the groups that it made: its successor knows none. It is safe for concurrent use.
type Memory struct{ made sync.Map }

// Made notes that this operator made the group.
func (m *Memory) Made(uid types.UID) { m.made.Store(uid, true) }

// Knows says whether this operator made the group.
func (m *Memory) Knows(uid types.UID) bool {
	_, ok := m.made.Load(uid)
	return ok
}
