package runner

import (
	"fmt"
	"time"
)

// Problems says what keeps the runner from doing its work, as far as that is
// known; nothing if it is ready. A runner that does not lead is ready to take over.
func (st *Status) Problems(now time.Time) []string {
	var problems []string
	switch {
	case st.Stopping:
		problems = append(problems, "it is stopping")
	case !st.LeaderKnown:
		problems = append(problems, "no leader is known: "+st.LeaderDetail)
	}
	up := 0
	for i := range st.Upstreams {
		if st.Upstreams[i].Up && st.Upstreams[i].Drain == nil {
			up++
		}
	}
	if up == 0 {
		problems = append(problems, "no Odoo server is healthy")
	}
	if !st.Leader {
		return problems
	}
	if st.TakingOver {
		problems = append(problems, "it is taking over")
	} else if problem := st.nothingServed(); problem != "" {
		problems = append(problems, problem)
	}
	for i := range st.Databases {
		db := &st.Databases[i]
		if db.Served() && !db.Fresh(now) {
			problem := fmt.Sprintf("database %s has no fresh session, it is %s", db.Name, db.State)
			if db.Detail != "" {
				problem += ": " + db.Detail
			}
			problems = append(problems, problem)
		}
	}
	return problems
}

// nothingServed says why a leader has nothing to do and never will; empty if it may have.
func (st *Status) nothingServed() string {
	if len(st.Databases) == 0 {
		return "no database is found: check the patterns of databases, and which databases the role owns"
	}
	for i := range st.Databases {
		if st.Databases[i].State != DatabaseUndetected {
			return ""
		}
	}
	return fmt.Sprintf("none of the %d databases has the add-on", len(st.Databases))
}

// Warnings names the databases that are served and still run nothing because of
// something in them: their channels cannot be used.
func (st *Status) Warnings(now time.Time) (list []string) {
	for i := range st.Databases {
		if db := &st.Databases[i]; db.State == DatabaseUnhealthy && db.Fresh(now) {
			list = append(list, fmt.Sprintf("database %s runs no jobs: %s", db.Name, db.Detail))
		}
	}
	return list
}
