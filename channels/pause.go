package channels

// Pause holds a channel back, with all below it, or lets it go again. It serves operators: it adds
// to what the configuration says, and neither Configure nor the coming and going of the channel
// ends it. Jobs that the channel has let pass but that do not run yet are called back.
func (m *Manager) Pause(name string, yes bool) {
	name = Normalize(name)
	if _, was := m.stopped[name]; was == yes {
		return
	}
	if yes {
		m.stopped[name] = struct{}{}
	} else {
		delete(m.stopped, name)
	}
	if c := m.find(name); c != nil {
		c.stopped = yes
		if yes && c.running > 0 {
			m.callBack(map[*channel]struct{}{c: {}})
		}
		m.settle(c, c)
	}
	if yes && name != rootName {
		m.displace() // jobs that it concerns may be among those that share a channel
	}
}
