package odoo

import (
	"slices"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Sharer = (*session)(nil)

// companyColumn is the one that tells whose job it is. Odoo fills it in unless the one who makes the
// job says otherwise.
var companyColumn = column{"company_id", "int4"}

// ReadCompanies implements [driver.Sharer]. The statements read the column only where that is wanted.
func (s *session) ReadCompanies(on bool) {
	if s.companies == on {
		return
	}
	s.companies = on
	if s.generation != nil {
		s.generation.companies = on
		s.statements = s.generation.statements()
	}
}

// companyWarning says why the companies of jobs are not known although they are to be counted; empty
// if they are.
func (g *generation) companyWarning() string {
	switch {
	case !g.companies || slices.Contains(g.readable, companyColumn.name):
		return ""
	case slices.Contains(g.columns, companyColumn.name):
		return "policies count per company, and the role may not read queue_job (company_id), so all jobs count as one company: GRANT SELECT on it"
	}
	return "policies count per company, and the table queue_job has no company_id, so all jobs count as one company"
}
