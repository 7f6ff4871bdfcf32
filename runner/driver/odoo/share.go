package odoo

import (
	"hash/maphash"
	"slices"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Sharer = (*session)(nil)

var (
	// companyColumn is the one that tells whose job it is. Odoo fills it in unless the one who makes the
	// job says otherwise.
	companyColumn = column{"company_id", "int4"}
	// identityColumn tells which jobs are the same task. The add-on has it from 12.0 on.
	identityColumn = column{"identity_key", "varchar"}
)

// keyColumns are the columns that rows have beyond rowColumns.
func keyColumns(k driver.Keys) (columns []column) {
	if k.Companies {
		columns = append(columns, companyColumn)
	}
	if k.Identities {
		columns = append(columns, identityColumn)
	}
	return columns
}

// ReadKeys implements [driver.Sharer]. The statements read the columns only where that is wanted.
func (s *session) ReadKeys(k driver.Keys) {
	if s.keys == k {
		return
	}
	s.keys = k
	if s.generation != nil {
		s.generation.keys = k
		s.statements = s.generation.statements()
	}
}

var identitySeed = maphash.MakeSeed()

// identity returns what stands for an identity key in this process. The add-on takes an empty one for
// none.
func identity(key []byte) uint64 {
	if len(key) == 0 {
		return 0
	}
	return max(maphash.Bytes(identitySeed, key), 1)
}

// keyWarnings say which keys of jobs are not known although jobs are to be told apart by them.
func (g *generation) keyWarnings() (warnings []string) {
	for _, c := range keyColumns(g.keys) {
		wish, effect := "policies count per company", "so all jobs count as one company"
		if c == identityColumn {
			wish, effect = "policies serialize by identity_key", "so nothing is serialized"
		}
		switch {
		case slices.Contains(g.readable, c.name):
		case slices.Contains(g.columns, c.name):
			warnings = append(warnings, wish+", and the role may not read queue_job ("+c.name+"), "+effect+": GRANT SELECT on it")
		default:
			warnings = append(warnings, wish+", and the table queue_job has no "+c.name+", "+effect)
		}
	}
	return warnings
}
