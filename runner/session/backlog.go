package session

// backlog holds the jobs whose rows have to be read, each once, in the order in
// which they were named. The zero value is empty.
type backlog struct {
	list []string
	// set are those of list that have not been taken out of turn.
	set map[string]struct{}
}

func (b *backlog) add(uuid string) {
	if b.set == nil {
		b.set = make(map[string]struct{})
	}
	if _, ok := b.set[uuid]; !ok {
		b.set[uuid] = struct{}{}
		b.list = append(b.list, uuid)
	}
}

func (b *backlog) len() int { return len(b.set) }

// take removes up to n jobs: those of first that are in it, then the oldest.
func (b *backlog) take(first []string, n int) []string {
	taken := make([]string, 0, min(n, len(b.set)))
	move := func(uuid string) {
		if _, ok := b.set[uuid]; ok {
			delete(b.set, uuid)
			taken = append(taken, uuid)
		}
	}
	for i := 0; i < len(first) && len(taken) < n; i++ {
		move(first[i])
	}
	for len(b.list) > 0 && len(taken) < n {
		move(b.list[0])
		b.list = b.list[1:]
	}
	if len(b.set) == 0 {
		b.clear()
	}
	return taken
}

// drop removes a job.
func (b *backlog) drop(uuid string) {
	if delete(b.set, uuid); len(b.set) == 0 {
		b.clear()
	}
}

// clear gives the memory back: a map keeps what it once needed, and pays for it.
func (b *backlog) clear() { *b = backlog{} }

// copy returns what is in it.
func (b *backlog) copy() map[string]struct{} {
	m := make(map[string]struct{}, len(b.set))
	for uuid := range b.set {
		m[uuid] = struct{}{}
	}
	return m
}
