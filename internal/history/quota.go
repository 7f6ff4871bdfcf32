package history

// quota bounds the kinds of something that are counted in one interval, because each name comes from a
// database that may belong to anyone. What there is no room for is counted for the rest of its database,
// or of all.
type quota struct {
	// limit bounds the kinds of all databases, and each those of one.
	limit, each int
	// own counts the kinds of each database, and folded those that are for the rest.
	own    map[string]int
	folded int
}

// admit reports whether there is room for a new kind, and takes it. kinds is how many there are, and names
// are those that the kind has beside the series.
func (q *quota) admit(s Series, kinds int, names ...string) bool {
	if !owned(s) || !permitted(append(names, s.Channel, s.Model, s.Method)...) || s.rest() ||
		kinds-q.folded >= q.limit || q.own[s.Database] >= q.each {
		return false
	}
	if q.own == nil {
		q.own = make(map[string]int)
	}
	q.own[s.Database]++
	return true
}

// fold returns the series under which a kind is counted for which there is no room. counted tells whether
// a series for the rest is one of the kinds.
func (q *quota) fold(s Series, counted func(rest Series) bool) Series {
	at := restOf(Other)
	if own := restOf(s.Database); owned(s) && (counted(own) || q.folded < databaseLimit) {
		at = own
	}
	if !counted(at) {
		q.folded++
	}
	return at
}

// owned reports whether a series can be counted for its database.
func owned(s Series) bool { return permitted(s.Database) && s.Database != "" }

// restOf is the series for the rest of a database.
func restOf(database string) Series { return Series{Database: database, Channel: Other, Method: Other} }

// rest reports whether the series is one for the rest.
func (s *Series) rest() bool { return *s == restOf(s.Database) }
