package upstream

// Class is where tasks may run: on the servers of a pool, or on those that belong to none.
type Class struct {
	// Pool names the pool. Default: empty, none.
	Pool string
	// Fallback has the servers that belong to no pool run the tasks while none of the pool is healthy.
	// Default: they wait.
	Fallback bool
}

// String names it for people, and differs for each.
func (c Class) String() string {
	switch {
	case c.Pool == "":
		return "the servers that belong to no pool"
	case c.Fallback:
		return "pool " + c.Pool + " fallback"
	}
	return "pool " + c.Pool
}

// Serving returns the pool whose servers run the tasks of a class now; empty for those that belong to
// none.
func (p *Pool) Serving(c Class) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.serving(c)
}

// serving is Serving; the caller holds mu.
func (p *Pool) serving(c Class) string {
	if !c.Fallback || p.healthy(c.Pool) {
		return c.Pool
	}
	return ""
}

// healthy reports whether a server of a pool gets tasks, as far as its limits allow; the caller holds mu.
func (p *Pool) healthy(pool string) bool {
	for _, name := range p.order {
		if s := p.states[name]; s.Pool == pool && s.up && !p.isDrained(name) {
			return true
		}
	}
	return false
}

// limitsOf returns those of a server: those of its pool, if that has some; the caller holds mu.
func (p *Pool) limitsOf(s *server) Limits {
	if l, ok := p.pools[s.Pool]; ok {
		return l
	}
	return p.limits
}
