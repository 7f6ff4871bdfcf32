package channels

import "math"

// CompaniesPerDatabase bounds how many companies of one database shares tell apart at a time, because
// rows can name any number, and each costs memory, and time whenever a limit of its database is reached
// or not any more. The jobs of further companies count as those of one company until others have no
// jobs any more and theirs are gone.
const CompaniesPerDatabase = 1000

// otherCompanies stands for all companies that are not told apart.
const otherCompanies = math.MinInt32

// companies counts the jobs of each company of a database. Those without a company are not counted.
type companies struct {
	jobs  map[int32]companyUse
	apart int // how many companies are told apart
}

type companyUse struct {
	jobs  int32
	apart bool // does not change while it has jobs
}

func (c *companies) enter(company int32) {
	if company == 0 {
		return
	}
	use, known := c.jobs[company]
	if !known && c.apart < CompaniesPerDatabase {
		use.apart = true
		c.apart++
	}
	if c.jobs == nil {
		c.jobs = make(map[int32]companyUse)
	}
	use.jobs++
	c.jobs[company] = use
}

func (c *companies) leave(company int32) {
	if company == 0 {
		return
	}
	use := c.jobs[company]
	if use.jobs--; use.jobs > 0 {
		c.jobs[company] = use
		return
	}
	if use.apart {
		c.apart--
	}
	if delete(c.jobs, company); len(c.jobs) == 0 {
		c.jobs = nil // a map that was large stays so
	}
}

// of returns the company as which shares count the jobs of a company.
func (c *companies) of(company int32) int32 {
	if company == 0 || c.jobs[company].apart {
		return company
	}
	return otherCompanies
}
