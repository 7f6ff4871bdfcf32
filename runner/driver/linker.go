package driver

// Linker is implemented by drivers whose application shows each job on a page. It is optional, and
// used where the site of the application is known.
type Linker interface {
	// Page returns the address of the page of the job with that id. site is the address of the
	// application's site, such as "https://odoo.example.com"; its host may be a wildcard. It returns
	// an empty string if there is no telling.
	Page(site, database string, id int64) string
}
