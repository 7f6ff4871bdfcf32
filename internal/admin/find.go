package admin

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	// uuidLength is the length of a whole uuid.
	uuidLength = 36
	// findNamed bounds the jobs that are listed when several begin alike, and findPages the pages
	// that are read, of up to twenty databases each.
	findNamed = 10
	findPages = 100
)

// uuidStart is what people may write instead of a uuid: its first letters, at least four.
var uuidStart = regexp.MustCompile(`^[0-9a-f][0-9a-f-]{3,35}$`)

// byUUID lets a filter select jobs by a uuid, or by the first letters of one.
func byUUID(f *driver.Filter, uuid string) {
	lower := strings.ToLower(uuid)
	switch {
	case !uuidStart.MatchString(lower):
		f.UUIDs = []string{uuid}
	case len(lower) == uuidLength:
		f.UUIDs = []string{lower}
	default:
		f.Prefix = lower
	}
}

// matches are the jobs of which a uuid, or the first letters of one, may be that of.
type matches struct {
	keys     []channels.Key
	problems []string
}

// find looks for the jobs that a uuid, or its first letters, selects in one database or in all, until
// it knows more than it would list.
func (m *matches) find(ctx context.Context, k supervisor.Operations, database, uuid string) error {
	q := runner.JobQuery{Database: database, Limit: findNamed + 1, Patience: api.QuestionTimeout}
	byUUID(&q.Filter, uuid)
	for range findPages {
		page, err := k.Jobs(ctx, q)
		if err != nil {
			return err
		}
		m.problems = append(m.problems, page.Problems...)
		for i := range page.Jobs {
			if key := page.Jobs[i].Key; !slices.Contains(m.keys, key) {
				m.keys = append(m.keys, key)
			}
		}
		if q.Cursor = page.Next; page.Next == "" || len(m.keys) > findNamed {
			return nil
		}
	}
	m.problems = append(m.problems, "there are too many")
	return nil
}

// one is the only one of them, or the answer to the question that has none, or several.
func (m *matches) one(database, uuid string) (channels.Key, error) {
	if len(m.keys) == 1 {
		return m.keys[0], nil
	}
	where := ""
	if database != "" {
		where = " in database " + database
	}
	switch {
	case len(m.keys) > 0:
		return channels.Key{}, Error(http.StatusConflict, "several jobs begin with %s: %s", uuid, m.list())
	case len(m.problems) > 0:
		return channels.Key{}, Error(http.StatusBadGateway, "no job that begins with %s was found%s, and not every database could be read: %s",
			uuid, where, m.problems[0])
	}
	if len(uuid) < uuidLength && !uuidStart.MatchString(strings.ToLower(uuid)) {
		return channels.Key{}, Error(http.StatusNotFound, "there is no job %s%s: a uuid may be cut to its first letters, at least four", uuid, where)
	}
	return channels.Key{}, Error(http.StatusNotFound, "there is no job that begins with %s%s", uuid, where)
}

func (m *matches) list() string {
	var names []string
	for _, key := range m.keys[:min(len(m.keys), findNamed)] {
		names = append(names, key.DB+" "+key.UUID)
	}
	if len(m.keys) > findNamed {
		names = append(names, "and more")
	}
	return strings.Join(names, ", ")
}

// Find returns the one job that a uuid, or its first letters, selects in a database, or in all if
// database is empty. Without anything to look for, it asks no database.
func Find(ctx context.Context, k supervisor.Operations, database, uuid string) (channels.Key, error) {
	return findIn(ctx, map[string]*supervisor.Runner{"": {Operations: k}}, database, uuid)
}

func findIn(ctx context.Context, all map[string]*supervisor.Runner, database, uuid string) (channels.Key, error) {
	var f driver.Filter
	if byUUID(&f, uuid); database != "" && f.Prefix == "" {
		return channels.Key{DB: database, UUID: f.UUIDs[0]}, nil
	}
	var found matches
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := found.find(ctx, all[name], database, uuid); err != nil {
			return channels.Key{}, Failure(fmt.Errorf("looking for job %s: %w", uuid, err))
		}
	}
	return found.one(database, uuid)
}
