package driver

import "context"

// VacantClaimer is implemented by sessions that claim a task along with its first read. A driver whose
// sessions implement it sets [Capabilities].VacantClaims.
type VacantClaimer interface {
	// ClaimVacant is Claim of one task and Read of it, provided that its row asks for nothing but a
	// slot of root: no other channel, and no eta. Otherwise it is only read, and so is one that
	// shares its uuid with another row. The row is as it was before the claim. That nothing was
	// claimed is no sign that the database has changed: the next Claim tells.
	ClaimVacant(ctx context.Context, uuid string) ([]Task, []Row, error)
}
