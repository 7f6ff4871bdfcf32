package driver

import "context"

// Adviser is implemented by cluster connections that can tell what is unwise about the connection
// itself. It is optional, and nothing depends on it.
type Adviser interface {
	// Warnings are sentences for an operator about what does not hinder the service but should be put
	// right, such as rights of the role that nothing needs. It changes nothing.
	Warnings(ctx context.Context) ([]string, error)
}
