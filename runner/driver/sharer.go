package driver

// Keys are what rows can tell about a job beyond what every row does, because jobs are counted by it.
type Keys struct {
	// Companies is the company that the job belongs to, Identities what stands for its identity key.
	Companies, Identities bool
}

// Include reports whether these are all of the others, or more.
func (k Keys) Include(o Keys) bool {
	return (k.Companies || !o.Companies) && (k.Identities || !o.Identities)
}

// Sharer is implemented by sessions of applications whose tasks have such keys. It is optional, and
// declared by [Capabilities.Companies] and [Capabilities.Identities].
type Sharer interface {
	// ReadKeys has the rows that the session returns from now on tell these keys, and no others. A
	// row tells none where that is not known. Default: none.
	ReadKeys(k Keys)
}
