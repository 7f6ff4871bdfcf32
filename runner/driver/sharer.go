package driver

// Sharer is implemented by sessions of applications whose tasks belong to companies, so that these can
// share what there is. It is optional, and declared by [Capabilities.Companies].
type Sharer interface {
	// ReadCompanies has the rows that the session returns from now on tell the company of a job, or
	// not any more. A row tells none where that is not known. Default: off.
	ReadCompanies(on bool)
}
