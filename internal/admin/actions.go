package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// body reads an action's body, strictly, of which a is the part that all have.
func body(w http.ResponseWriter, r *http.Request, into any, a *api.Actor) error {
	if r.URL.RawQuery != "" {
		return Error(http.StatusBadRequest, "an action takes no query, put the parameters into the body")
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return Error(http.StatusUnsupportedMediaType, "the body must be JSON, with Content-Type: application/json")
	}
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyLimit))
	dec.DisallowUnknownFields()
	if err = dec.Decode(into); err == nil {
		// Not More, which overlooks a closing bracket.
		if _, end := dec.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("something follows the value")
		}
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return Error(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", bodyLimit)
	case errors.Is(err, io.EOF):
		return Error(http.StatusBadRequest, "the body is empty")
	case err != nil:
		return Error(http.StatusBadRequest, "the body cannot be read: %w", api.Mistyped(err))
	}
	for _, s := range []*string{&a.By, &a.Note} {
		*s = strings.TrimSpace(*s)
		if len(*s) > nameLimit || !api.IsPrintable(*s) {
			return Error(http.StatusBadRequest, "by and note must be texts of up to %d bytes in one line, without characters that control how it is shown", nameLimit)
		}
	}
	a.By = identity(r, a.By)
	return nil
}

// identity says who sent a request: the client's certificate or address, and the
// name that he gave himself.
func identity(r *http.Request, by string) string {
	who := r.RemoteAddr
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		who = "certificate " + api.Printable(r.TLS.PeerCertificates[0].Subject.String())
	}
	if who == "" || who == "@" {
		who = "the admin socket"
	}
	if by == "" {
		return who
	}
	// In quotation marks, because it is only what somebody has typed.
	return `"` + strings.ReplaceAll(by, `"`, "'") + `" (` + who + ")"
}

// subject checks that exactly one thing is named.
func subject(p *api.PauseRequest) (runner.Pause, error) {
	named := 0
	for _, yes := range []bool{p.Database != "", p.Channel != "", p.All} {
		if yes {
			named++
		}
	}
	for _, name := range []string{p.Database, p.Channel} {
		if len(name) > subjectLimit || !api.IsPrintable(name) {
			return runner.Pause{}, Error(http.StatusBadRequest, "a name has at most %d bytes, in one line", subjectLimit)
		}
	}
	if named != 1 {
		return runner.Pause{}, Error(http.StatusBadRequest, "name exactly one of database, channel and all")
	}
	return runner.Pause{Database: p.Database, Channel: p.Channel, By: p.By, Note: p.Note}, nil
}

// PostPause pauses a channel, a database or everything.
func PostPause(w http.ResponseWriter, r *http.Request) error {
	var req api.PauseRequest
	if err := body(w, r, &req, &req.Actor); err != nil {
		return err
	}
	p, err := subject(&req)
	if err != nil {
		return err
	}
	p.Since = time.Now().UTC().Truncate(time.Second)
	if p.Until, err = end(&req, p.Since); err != nil {
		return err
	}
	return order(w, r, "pause", &req.Actor, func(_ *runner.Status, c runner.Controls) (runner.Controls, int, error) {
		next := c.WithPause(p)
		if len(next.Pauses) > len(c.Pauses) && len(c.Pauses) >= supervisor.ControlsLimit {
			return c, 0, Error(http.StatusConflict, "there are already %d pauses, resume some", len(c.Pauses))
		}
		return next, 1, nil
	}, func(st *runner.Status) string { return unknownSubject(st, &p) })
}

// end is when the pause ends by itself, zero for never.
func end(p *api.PauseRequest, now time.Time) (time.Time, error) {
	switch {
	case p.For != "" && !p.Until.IsZero():
		return time.Time{}, Error(http.StatusBadRequest, "for and until exclude each other")
	case p.For != "":
		d, err := duration("for", p.For)
		return now.Add(d), err
	case !p.Until.IsZero() && !p.Until.After(now):
		return time.Time{}, Error(http.StatusBadRequest, "until is in the past")
	}
	return p.Until, nil
}

// PostResume ends a pause.
func PostResume(w http.ResponseWriter, r *http.Request) error {
	var req api.PauseRequest
	if err := body(w, r, &req, &req.Actor); err != nil {
		return err
	}
	p, err := subject(&req)
	if err != nil {
		return err
	}
	if req.For != "" || !req.Until.IsZero() {
		return Error(http.StatusBadRequest, "resume takes neither for nor until")
	}
	return order(w, r, "resume", &req.Actor, func(_ *runner.Status, c runner.Controls) (runner.Controls, int, error) {
		c, was := c.WithoutPause(p)
		if !was {
			return c, 0, nil
		}
		return c, 1, nil
	}, func(st *runner.Status) string { return unknownSubject(st, &p) })
}

// PostDrain keeps new jobs from an Odoo server.
func PostDrain(w http.ResponseWriter, r *http.Request) error {
	var req api.DrainRequest
	if err := body(w, r, &req, &req.Actor); err != nil {
		return err
	}
	return order(w, r, "drain", &req.Actor, func(st *runner.Status, c runner.Controls) (runner.Controls, int, error) {
		name, err := knownUpstream(st, req.Upstream)
		if err != nil {
			return c, 0, err
		}
		if next := c.WithDrain(runner.Drain{Upstream: name}); len(next.Drains) > max(len(c.Drains), supervisor.ControlsLimit) {
			return c, 0, Error(http.StatusConflict, "there are already %d drains, undrain some", len(c.Drains))
		}
		d := runner.Drain{Upstream: name, Since: time.Now().UTC().Truncate(time.Second), By: req.By, Note: req.Note}
		return c.WithDrain(d), 1, nil
	}, nil)
}

// PostUndrain sends jobs to an Odoo server again.
func PostUndrain(w http.ResponseWriter, r *http.Request) error {
	var req api.DrainRequest
	if err := body(w, r, &req, &req.Actor); err != nil {
		return err
	}
	return order(w, r, "undrain", &req.Actor, func(st *runner.Status, c runner.Controls) (runner.Controls, int, error) {
		if c, was := c.WithoutDrain(req.Upstream); was {
			return c, 1, nil // also one that is not there any more
		}
		name, err := knownUpstream(st, req.Upstream)
		if err != nil {
			return c, 0, err
		}
		if c, was := c.WithoutDrain(name); was {
			return c, 1, nil
		}
		return c, 0, nil
	}, nil)
}

// knownUpstream returns the name of a server that is named by its address, with or without the
// scheme, or the answer to whoever names one that is none.
func knownUpstream(st *runner.Status, address string) (string, error) {
	var names, same []string
	for _, u := range st.Upstreams {
		if u.Name == address {
			return address, nil
		}
		if _, rest, _ := strings.Cut(u.Name, "://"); rest == address {
			same = append(same, u.Name)
		}
		names = append(names, u.Name)
	}
	switch {
	case len(same) == 1:
		return same[0], nil
	case len(same) > 1:
		return "", Error(http.StatusBadRequest, "several servers have the address %q: %s", address, strings.Join(same, ", "))
	}
	return "", Error(http.StatusNotFound, "there is no Odoo server %q, %s", api.Printable(address), known("Odoo server", names))
}

// known lists what there is, as far as one line holds it.
func known(what string, names []string) string {
	const shown = 10
	slices.Sort(names)
	switch n := len(names); {
	case n == 0:
		return "no " + what + " is known"
	case n > shown:
		return fmt.Sprintf("known are %s and %d more", strings.Join(names[:shown], ", "), n-shown)
	}
	return "known are " + strings.Join(names, ", ")
}

// unknownSubject says that what a pause names does not exist, with what does: it may be meant for later,
// or be a slip. A process that stands by does not know it, and says who leads.
func unknownSubject(st *runner.Status, p *runner.Pause) string {
	if !st.Leader {
		if !st.LeaderKnown {
			return ""
		}
		return "this process stands by, and " + st.LeaderDetail + " leads: the order reaches it only if both share Caddy's storage"
	}
	var names []string
	switch {
	case p.Database != "":
		for i := range st.Databases {
			names = append(names, st.Databases[i].Name)
		}
		if !slices.Contains(names, p.Database) {
			return fmt.Sprintf("there is no database %q now, %s", p.Database, known("database", names))
		}
	case p.Channel != "":
		return unknownChannel(st, p.Channel)
	}
	return ""
}

// unknownChannel says that a channel does not exist now, with those that do; empty for one that does.
func unknownChannel(st *runner.Status, name string) string {
	var names []string
	for i := range st.Channels {
		names = append(names, st.Channels[i].FullName)
	}
	slices.Sort(names)
	if names = slices.Compact(names); slices.Contains(names, channels.Normalize(name)) {
		return ""
	}
	return fmt.Sprintf("there is no channel %q now, %s", channels.Normalize(name), known("channel", names))
}

// foundNone says of a channel by which nothing was found that it does not exist: its name may be a slip.
// Jobs that have ended can be in channels that are gone, so one by which something is found is good. A
// process that stands by does not know all channels.
func foundNone(ctx context.Context, k *supervisor.Runner, channel string) string {
	if channel == "" {
		return ""
	}
	st, err := k.Status(ctx)
	if err != nil || !st.Leader {
		return ""
	}
	return unknownChannel(&st, channel)
}

// order changes what operators have ordered of a runner, and answers with that. remark, if there is one,
// looks at the status before, and says what else there is to know.
func order(w http.ResponseWriter, r *http.Request, action string, a *api.Actor, f func(*runner.Status, runner.Controls) (runner.Controls, int, error), remark func(*runner.Status) string) error {
	name, k, err := OneRunner(a.Runner)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	st, err := k.Status(ctx)
	if err != nil {
		return Failure(err)
	}
	said := ""
	if remark != nil {
		said = remark(&st)
	}
	changed := 0
	var refused error
	unsaved, err := k.Order(ctx, func(c runner.Controls) runner.Controls {
		next, n, err := f(&st, c)
		if err != nil {
			refused = err
			return c
		}
		changed = n
		return next
	})
	switch {
	case refused != nil:
		return refused
	case err != nil:
		return Failure(err)
	}
	logAction(action, name, a, zap.Int("changed", changed), zap.NamedError("not_stored", unsaved))
	if st, err = k.Status(ctx); err != nil {
		return Failure(err)
	}
	out := api.OrderAnswer{
		Runner: name, Changed: changed, Stored: unsaved == nil, Pauses: api.NewPauses(st.Controls.Pauses),
		Drains: api.NewDrains(st.Controls.Drains), Upstreams: api.NewUpstreams("", &st),
	}
	out.Warning = said
	if unsaved != nil {
		out.Warning = "in force, but not stored yet: it would not survive a restart (see the log)"
	}
	return Answer(w, http.StatusOK, out)
}

// logAction writes who did what to what.
func logAction(action, name string, a *api.Actor, fields ...zap.Field) {
	log := caddy.Log().Named("jobrunner.admin")
	if gen := supervisor.Current(); gen != nil {
		log = gen.Logger.Named("admin")
	}
	log.Info("action", append([]zap.Field{
		zap.String("action", action), zap.String("runner", name), zap.String("by", a.By), zap.String("note", a.Note),
	}, fields...)...)
}

// jobChange checks the request of an action on jobs.
func jobChange(c *api.ChangeRequest, action driver.Action) (runner.JobChange, error) {
	filter, err := jobFilter(&c.JobFilter)
	if err != nil {
		return runner.JobChange{}, err
	}
	out := runner.JobChange{
		Change: driver.Change{Action: action, By: c.By, Until: c.Until}, Filter: filter,
		Database: c.Database, Limit: c.Limit, DryRun: c.DryRun,
	}
	switch {
	case !filter.Narrow() && !c.All:
		return out, Error(http.StatusBadRequest, "select jobs by uuids, states, channel, exception, function, name, identity, older_than or newer_than, or say all")
	case len(filter.UUIDs) > 0 && c.Database == "":
		return out, Error(http.StatusBadRequest, "uuids need a database: a copy of a database has the same ones")
	case c.Limit < 0:
		return out, Error(http.StatusBadRequest, "limit must not be negative")
	case action != driver.Postpone && (!c.Until.IsZero() || c.For != ""):
		return out, Error(http.StatusBadRequest, "only postpone takes until or for")
	case action == driver.Postpone && c.Until.IsZero() == (c.For == ""):
		return out, Error(http.StatusBadRequest, "postpone needs either until or for")
	}
	for _, s := range filter.States {
		if !action.Permits(s) {
			return out, Error(http.StatusBadRequest, "%s is not possible for jobs in state %s", action, s)
		}
	}
	if c.For != "" {
		d, err := duration("for", c.For)
		if err != nil {
			return out, err
		}
		out.Until = time.Now().Add(d)
	}
	return out, nil
}

// ChangeJobs returns the handler of an action on jobs, of which one request changes at most so many; 0 is
// without limit.
func ChangeJobs(action driver.Action, most int) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		var req api.ChangeRequest
		if err := body(w, r, &req, &req.Actor); err != nil {
			return err
		}
		change, err := jobChange(&req, action)
		if err != nil {
			return err
		}
		if most > 0 && (change.Limit == 0 || change.Limit > most) {
			change.Limit = most
		}
		name, k, err := OneRunner(req.Runner)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(r.Context(), actTimeout)
		defer cancel()
		for i, uuid := range change.UUIDs {
			key, err := Find(ctx, k, change.Database, uuid)
			if err != nil {
				return err
			}
			change.UUIDs[i] = key.UUID
		}
		result, err := k.Change(ctx, change)
		selected := req.JobFilter
		selected.UUIDs = nil // there can be thousands
		logAction(action.String(), name, &req.Actor, zap.String("database", change.Database), zap.Any("selected", selected),
			zap.Int("uuids", len(change.UUIDs)), zap.Int("limit", change.Limit), zap.Bool("dry_run", change.DryRun),
			zap.Int("changed", result.Changed), zap.Int("followed", result.Followed), zap.Error(err))
		if err != nil {
			return Failure(err)
		}
		if change.Database != "" && len(change.UUIDs) > 0 && result.Changed == 0 && len(result.Problems) == 0 {
			return notChanged(ctx, k, change)
		}
		out := api.ChangeAnswer{
			Runner: name, DryRun: change.DryRun, Changed: result.Changed, Followed: result.Followed,
			Jobs: []api.JobKey{}, More: result.More, Partial: result.Partial, Problems: result.Problems,
		}
		if result.Changed == 0 {
			out.Warning = foundNone(ctx, k, req.Channel)
		}
		for _, key := range result.Jobs {
			out.Jobs = append(out.Jobs, api.JobKey{Database: key.DB, UUID: key.UUID})
		}
		return Answer(w, http.StatusOK, out)
	}
}

// notChanged says why jobs that were named could not be changed.
func notChanged(ctx context.Context, k *supervisor.Runner, change runner.JobChange) error {
	page, err := k.Jobs(ctx, runner.JobQuery{Database: change.Database, Filter: driver.Filter{UUIDs: change.UUIDs}, Limit: 1})
	switch {
	case err != nil:
		return Failure(err)
	case len(page.Jobs) == 0:
		return Error(http.StatusNotFound, "there is no such job in database %s", change.Database)
	}
	return Error(http.StatusConflict, "nothing was changed: %s is not possible, job %s is in state %s or does not match the filter",
		change.Action, page.Jobs[0].UUID, page.Jobs[0].RawState)
}

func postResync(w http.ResponseWriter, r *http.Request) error {
	var req api.ResyncRequest
	if err := body(w, r, &req, &req.Actor); err != nil {
		return err
	}
	name, k, err := OneRunner(req.Runner)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	n, err := k.Resync(ctx, req.Database)
	if err != nil {
		return Failure(err)
	}
	logAction("resync", name, &req.Actor, zap.String("database", req.Database), zap.Int("databases", n))
	if n == 0 {
		return Error(http.StatusConflict, "no database with a session was selected")
	}
	return Answer(w, http.StatusOK, api.ResyncAnswer{Runner: name, Databases: n})
}
