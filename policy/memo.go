package policy

import "sync"

// memo is a bounded map that forgets in generations: when the young generation is
// full it becomes the old one, and what is not asked for until the next time is
// dropped. It holds at most twice its limit. It is safe for concurrent use.
type memo[K comparable, V any] struct {
	limit int

	mu         sync.RWMutex // guards young and old
	young, old map[K]V
}

func newMemo[K comparable, V any](limit int) *memo[K, V] {
	return &memo[K, V]{limit: limit, young: make(map[K]V)}
}

func (m *memo[K, V]) get(key K) (V, bool) {
	m.mu.RLock()
	v, ok := m.young[key]
	if ok {
		m.mu.RUnlock()
		return v, true
	}
	v, ok = m.old[key]
	m.mu.RUnlock()
	if ok {
		m.put(key, v)
	}
	return v, ok
}

func (m *memo[K, V]) put(key K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.young) >= m.limit {
		m.old, m.young = m.young, make(map[K]V, m.limit)
	}
	m.young[key] = v
}
