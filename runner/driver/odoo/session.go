package odoo

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// session implements [driver.Session] on one connection.
type session struct {
	database string
	// runNeutralized is the option of the driver in force.
	runNeutralized bool
	// gated is set while Claim claims nothing where modules are marked for an upgrade.
	gated bool
	// keys are those that rows tell.
	keys  driver.Keys
	conn  *postgres.Conn
	inbox inbox

	generation *generation
	statements statements
	// reading, claiming and vacant are those of the statements that are executed for every job, and decoder
	// reads their rows.
	reading, claiming, vacant repeated
	decoder                   reader
	listening                 bool
	trigger                   uint32  // the OID of the one that notifies
	lockKeys                  []int64 // of the locks that it holds
	// fence, if set, shows that this process leads, for a session that holds no locks.
	fence func() driver.Fence
}

var (
	_ driver.Session       = (*session)(nil)
	_ driver.VacantClaimer = (*session)(nil)
	_ driver.Poller        = (*session)(nil)
	_ driver.Fenced        = (*session)(nil)
)

// errNoFingerprint is a mistake of the caller.
var errNoFingerprint = errors.New("the database has no fingerprint yet, or one without a generation")

// Fingerprint implements [driver.Session]. Beyond the contract's conditions, a database behind a
// pooler in transaction mode is unhealthy. After an error, the session is what it was.
func (s *session) Fingerprint(ctx context.Context) (driver.Fingerprint, error) {
	g, statements, trigger := s.generation, s.statements, s.trigger
	fp, err := s.fingerprint(ctx)
	if err != nil {
		s.generation, s.statements, s.trigger = g, statements, trigger
	}
	return fp, upgradingOr(err)
}

func (s *session) fingerprint(ctx context.Context) (driver.Fingerprint, error) {
	if s.conn.Pooling == postgres.TransactionPooling {
		s.generation = nil
		return unhealthy("%s", postgres.ErrTransactionPooling), nil
	}
	c, err := readCatalog(ctx, s.conn)
	if err != nil {
		return driver.Fingerprint{}, err
	}
	found, err := readModules(ctx, s.conn, c)
	if err != nil {
		return driver.Fingerprint{}, err
	}
	g, fp := detect(c, found)
	if g == nil {
		s.generation = nil
		return fp, nil
	}
	g.keys = s.keys
	s.generation, s.statements, s.trigger = g, g.statements(), c.Trigger
	if c.PID != s.conn.PID && !s.conn.Pooled() {
		s.conn.Pooling = postgres.TransactionPooling
	}
	copied, err := g.neutralized(ctx, s.conn)
	if err != nil {
		return driver.Fingerprint{}, err
	}
	if copied && !s.runNeutralized {
		withhold(&fp)
		return fp, nil
	}
	if g.trigger.needed && s.listening {
		fp.Health, fp.Description = driver.Unhealthy, "the trigger queue_job_notify has vanished; it is created again"
	}
	if fp.Health == driver.Healthy {
		if fp.Warnings, err = g.warnings(ctx, s.conn); err != nil {
			return driver.Fingerprint{}, err
		}
		if c.Parameters && !c.ReadParameters && !s.runNeutralized {
			fp.Warnings = append(fp.Warnings, neutralizedUnreadable)
		}
		fp.Warnings = append(fp.Warnings, g.keyWarnings()...)
		switch s.conn.Pooling {
		case postgres.TransactionPooling:
			fp.Health, fp.Description = driver.Unhealthy, postgres.ErrTransactionPooling.Error()
		case postgres.SessionPooling:
			fp.Description = "ready, through a connection pooler in session mode; a direct connection would be safer"
		case postgres.Direct:
		}
		if s.conn.Pooled() {
			fp.Description = "ready, through the pooler"
		}
		if copied {
			fp.Description += neutralizedServedText
		}
	}
	return fp, nil
}

// Lock implements [driver.Session] with the lock of OCA's runner, so that a Python runner and this
// one exclude each other (docs/contract.md 3.5).
func (s *session) Lock(ctx context.Context) (driver.Lock, error) {
	if s.generation == nil {
		return driver.Lock{}, errNoFingerprint
	}
	lock, err := s.conn.TryLock(ctx, s.generation.lockKey)
	if err != nil || !lock.Held {
		return lock, err
	}
	s.lockKeys = []int64{s.generation.lockKey}
	if s.generation.olderLock == "" {
		return lock, nil
	}
	older, err := s.olderKey(ctx)
	if err != nil {
		return driver.Lock{}, err
	}
	if lock, err = s.conn.TryLock(ctx, older); err != nil || !lock.Held {
		// Both or neither, so that a search for the holder finds the right one.
		s.lockKeys = nil
		return lock, errors.Join(err, s.conn.Unlock(ctx, s.generation.lockKey))
	}
	s.lockKeys = append(s.lockKeys, older)
	return lock, nil
}

// olderKey is the key of the lock of an earlier runner.
func (s *session) olderKey(ctx context.Context) (key int64, err error) {
	err = s.conn.QueryRow(ctx, "SELECT hashtext($1)", s.generation.olderLock).Scan(&key)
	return key, s.conn.Failed(err, "find the key of the lock "+s.generation.olderLock)
}

// Polls implements [driver.Poller].
func (s *session) Polls() bool { return s.conn.Pooled() }

// excluding has what follows happen only if no other runner serves the database, until the function
// that it returns is called. Without a pooler, the session holds its locks all the time.
func (s *session) excluding() (restore func()) {
	var fence driver.Fence
	if s.fence != nil {
		fence = s.fence()
	}
	return s.conn.Exclude(s.lockKeys, fence)
}

// SetFence implements [driver.Fenced].
func (s *session) SetFence(fence func() driver.Fence) { s.fence = fence }

// Running implements [driver.Session]. An index serves it: add-ons of every series have one of the
// state.
func (s *session) Running(ctx context.Context) ([]driver.Row, error) {
	if s.generation == nil {
		return nil, errNoFingerprint
	}
	return s.rows(ctx, "read the jobs that run", s.statements.running)
}

// Read implements [driver.Session]. Of several rows of one uuid it returns the one that matters.
func (s *session) Read(ctx context.Context, uuids []string) ([]driver.Row, error) {
	if s.generation == nil {
		return nil, errNoFingerprint
	}
	rows, err := s.readRows(ctx, uuids)
	if err != nil {
		return nil, s.failed(err, "read jobs")
	}
	return rows, nil
}

// readRows reads jobs: mostly by decoding what the server sends.
func (s *session) readRows(ctx context.Context, uuids []string) ([]driver.Row, error) {
	direct, err := s.direct(ctx, &s.reading, "jobrunner_read", s.statements.read, s.readFit)
	if err != nil {
		return nil, err
	}
	found := newRowSet(len(uuids))
	if !direct {
		if err = s.scanRows(ctx, s.statements.read, []any{uuids}, found.add); err != nil {
			s.reading.forget()
		}
		return found.list, err
	}
	s.decoder.begin(len(uuids))
	err = s.reading.execute(ctx, s.conn.Conn, func(values [][]byte) error {
		if !wellFormed(values, s.keys) {
			return errRow
		}
		found.add(s.decoder.decode(values, s.database, s.keys))
		return nil
	}, uuids)
	return found.list, err
}

// direct reports whether a statement can be executed as a repeated one.
func (s *session) direct(ctx context.Context, r *repeated, name, sql string, fit func([]pgconn.FieldDescription) bool) (bool, error) {
	if s.conn.Pooled() {
		return false, nil
	}
	r.name = name
	return r.prepare(ctx, s.conn.Conn, sql, fit)
}

// rows runs a statement that returns rows, and makes them one per uuid.
func (s *session) rows(ctx context.Context, doing, sql string, args ...any) ([]driver.Row, error) {
	var found rowSet
	if err := s.scanRows(ctx, sql, args, found.add); err != nil {
		return nil, s.failed(err, doing)
	}
	return found.list, nil
}

// rowSet collects rows, of several of one uuid the one that matters.
type rowSet struct {
	list  []driver.Row
	index index
}

// newRowSet makes room for so many rows.
func newRowSet(n int) rowSet { return rowSet{list: make([]driver.Row, 0, n)} }

func (r *rowSet) add(row driver.Row) {
	i := r.index.find(len(r.list), func(i int) string { return r.list[i].UUID }, row.UUID)
	if i < 0 {
		r.list = append(r.list, row)
	} else if better(row, r.list[i]) {
		r.list[i] = row
	}
}

// index finds the elements of a list by their names. The zero value is that of an empty list.
type index struct{ all map[string]int }

// indexLimit is the length of the longest list that is searched from its beginning.
const indexLimit = 16

// find returns where a name is in a list of n, of which at returns the names. If it is not there, -1
// is returned, and the name is to be appended to the list.
func (x *index) find(n int, at func(int) string, name string) int {
	if n < indexLimit {
		for i := range n {
			if at(i) == name {
				return i
			}
		}
		return -1
	}
	if x.all == nil {
		x.all = make(map[string]int)
		for i := range n {
			x.all[at(i)] = i
		}
	}
	if i, ok := x.all[name]; ok {
		return i
	}
	x.all[name] = n
	return -1
}

// query runs a statement and calls each for every row, as the rows arrive.
func (s *session) query(ctx context.Context, sql string, args []any, each func(pgx.Rows, *scanner) error) error {
	rows, err := s.conn.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	scan := &scanner{database: s.database, keys: s.keys}
	for rows.Next() {
		if err := each(rows, scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// scanRows runs a statement and passes its rows to add, as they arrive. The columns that follow those
// of a job are in more by then.
func (s *session) scanRows(ctx context.Context, sql string, args []any, add func(driver.Row), more ...any) error {
	return s.query(ctx, sql, args, func(rows pgx.Rows, scan *scanner) error {
		row, err := scan.scan(rows, more...)
		if err == nil {
			add(row)
		}
		return err
	})
}

// Claim implements [driver.Session].
func (s *session) Claim(ctx context.Context, uuids, others []string) ([]driver.Task, []driver.Row, error) {
	return s.claim(ctx, uuids, others, false)
}

// ClaimVacant implements [driver.VacantClaimer].
func (s *session) ClaimVacant(ctx context.Context, uuid string) ([]driver.Task, []driver.Row, error) {
	uuids := []string{uuid}
	return s.claim(ctx, uuids, uuids, true)
}

func (s *session) claim(ctx context.Context, uuids, others []string, vacant bool) ([]driver.Task, []driver.Row, error) {
	if s.generation == nil {
		return nil, nil, errNoFingerprint
	}
	defer s.excluding()()
	c := claim{session: s, tasks: make([]driver.Task, 0, len(uuids)), read: newRowSet(len(others))}
	if err := c.run(ctx, uuids, others, vacant); err != nil {
		return nil, nil, s.failed(err, "claim jobs")
	}
	tasks := c.tasks
	if len(tasks) == 0 && len(uuids) > 0 && !vacant {
		// Others may have taken all of them, or there is a new mark.
		if err := s.unchanged(ctx); err != nil {
			return nil, nil, upgradingOr(err)
		}
	}
	return tasks, c.read.list, nil
}

// claimStatement is the one that claims as the options in force want it.
func (s *session) claimStatement(vacant bool) string {
	var c claimCondition
	if s.runNeutralized {
		c |= evenCopies
	}
	if s.gated {
		c |= whereSettled
	}
	if vacant {
		c |= intoVacancy
	}
	return s.statements.claims[c]
}

// Unclaim implements [driver.Session]. A row that another session has locked is left alone.
func (s *session) Unclaim(ctx context.Context, tasks []driver.Task) ([]driver.Row, error) {
	if s.generation == nil {
		return nil, errNoFingerprint
	}
	defer s.excluding()()
	uuids, enqueued := attempts(len(tasks), func(i int) driver.Task { return tasks[i] })
	return s.rows(ctx, "put jobs back", s.statements.unclaim, uuids, enqueued)
}

// FailUnclaimed implements [driver.Quarantiner].
func (s *session) FailUnclaimed(ctx context.Context, tasks []driver.Task, why []string) ([]driver.Row, error) {
	if s.generation == nil {
		return nil, errNoFingerprint
	}
	defer s.excluding()()
	uuids, enqueued := attempts(len(tasks), func(i int) driver.Task { return tasks[i] })
	return s.rows(ctx, "fail jobs that were not run", s.statements.failUnclaimed, uuids, enqueued, causeTexts(why))
}

// Probe implements [driver.Session]. Every error matches [driver.ErrLost] or [driver.ErrChanged]: a
// session that is not what it should be cannot be used.
func (s *session) Probe(ctx context.Context) error {
	if s.conn.Pooled() {
		if err := s.probePooled(ctx); err != nil || s.generation == nil {
			return err
		}
	} else if err := s.probe(ctx); err != nil || s.generation == nil || !s.listening {
		return err
	}
	return upgradingOr(s.unchanged(ctx))
}

// probe is the part of Probe that concerns the connection.
func (s *session) probe(ctx context.Context) error {
	var want postgres.Expect
	if s.generation != nil && s.listening {
		want.Channel, want.Trigger = s.generation.channel, s.trigger
	}
	for i := range s.lockKeys {
		if i > 0 { // only connector has two
			if err := s.conn.Probe(ctx, want); err != nil {
				return err
			}
		}
		want.Lock = &s.lockKeys[i]
	}
	return s.conn.Probe(ctx, want)
}

// probePooled is probe where the session has nothing that it could have lost: that no other runner
// serves the database is what is to be known.
func (s *session) probePooled(ctx context.Context) error {
	defer s.excluding()()
	return s.conn.Probe(ctx, postgres.Expect{})
}

// Close implements [driver.Session].
func (s *session) Close(ctx context.Context) error {
	return postgres.Wrap(s.conn.Close(ctx), "close the session")
}
