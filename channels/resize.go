package channels

// Resize changes the capacity of root, if that is Auto. What runs stays counted. It does nothing where
// each database has its own tree.
func (f *Forest) Resize(capacity int) {
	if f.shared != nil {
		f.shared.Resize(capacity)
	}
}

// Resize is [Forest.Resize].
func (m *Manager) Resize(capacity int) {
	cfg := m.wanted[rootName]
	if !cfg.Auto || capacity < 1 || cfg.Capacity == capacity {
		return
	}
	cfg.Capacity = capacity
	m.wanted[rootName] = cfg
	changed := map[*channel]limits{m.root: m.root.limits}
	m.root.capacity = capacity
	m.spread(m.root, changed)
	m.recall(changed)
	for c := range changed {
		m.settle(c, c)
	}
}
