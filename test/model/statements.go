package model

// The statements, as conditions on a row and its lock row. TestModelOfStatements in runner/driver/odoo
// compares them with the text of the SQL, and TestModelOfInspection with the function that judges.

// Claim marks a job enqueued that is pending. attempt is what tells its date_enqueued from earlier ones.
func (j *Job) Claim(attempt uint8) bool {
	if j.Row.State != Pending {
		return false
	}
	j.Row = Row{State: Enqueued, Attempt: attempt}
	return true
}

// Unclaim puts back what is still as the claim left it.
func (j *Job) Unclaim(attempt uint8) bool {
	if j.Row.State != Enqueued || j.Row.Attempt != attempt || attempt == 0 {
		return false
	}
	j.Row = Row{State: Pending}
	return true
}

// Finding is what an inspection has found.
type Finding uint8

// Findings, in the order of driver.Verdict.
const (
	Uncertain Finding = iota
	Alive
	Dead
)

// Inspect looks for a holder of the lock row.
func (j *Job) Inspect(g Generation) Finding {
	held := false
	for i := range j.Requests {
		held = held || j.Requests[i].At == Executing && !j.Requests[i].Hidden
	}
	return Judge(g, j.Row, held)
}

// Judge says what follows from a row and its lock row.
func Judge(g Generation, row Row, held bool) Finding {
	switch {
	case !row.State.Running():
		return Uncertain
	case held && g.Locks:
		return Alive
	case g.Locks && row.Old && row.Attempt != 0:
		return Dead
	}
	return Uncertain
}

// Rescue puts a job back that was found dead as found, if it still is, and nothing holds its lock row. Of
// an expired one nothing but the row is known.
func (j *Job) Rescue(g Generation, found Row) bool {
	same := j.Row.State == found.State && j.Row.Attempt == found.Attempt && j.Row.Attempt != 0
	switch {
	case !same:
		return false
	case g.Locks && (!j.Row.State.Running() || !j.Row.Old || j.Locked()):
		return false
	case !g.Locks && j.Row.State != Started:
		return false
	}
	j.Row.State = Pending
	return true
}
