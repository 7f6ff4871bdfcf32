package driver

// Keys are what rows can tell about a job beyond what every row does, because jobs are counted by it.
type Keys struct {
	// Companies is the company that the job belongs to, Identities what stands for its identity key.
	Companies, Identities bool
}

// And returns those that are among both.
func (k Keys) And(o Keys) Keys {
	return Keys{Companies: k.Companies && o.Companies, Identities: k.Identities && o.Identities}
}

// Sharer is implemented by sessions of applications whose tasks have such keys. It is optional, and
// declared by [Capabilities.Companies] and [Capabilities.Identities].
type Sharer interface {
	// ReadKeys has the rows that the session returns from now on tell these keys, and no others. A
	// row tells none where that is not known. Default: none.
	ReadKeys(k Keys)
}
