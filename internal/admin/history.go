package admin

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// groupsShown is how many groups there are unless the request says otherwise.
const groupsShown = 50

// GetHistory tells what became of the jobs of one runner.
func GetHistory(w http.ResponseWriter, r *http.Request) error {
	q, err := Query(r, "runner", "database", "channel", "function", "from", "to", "step", "by", "limit", "csv")
	if err != nil {
		return err
	}
	limit, err := number(q, "limit", 1, groupsShown)
	if err != nil {
		return err
	}
	query, err := historyQuery(q, time.Now())
	if err != nil {
		return err
	}
	format := q.Get("csv")
	if !slices.Contains([]string{"", "intervals", "groups"}, format) {
		return Error(http.StatusBadRequest, "csv %q is neither intervals nor groups", format)
	}
	name, k, err := OneRunner(q.Get("runner"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	doc, err := readHistory(ctx, name, k, query)
	if err != nil {
		return err
	}
	if format != "" {
		return table(w, historyRows(doc, format))
	}
	if len(doc.Groups) > limit {
		doc.Groups, doc.More = doc.Groups[:limit], len(doc.Groups)-limit
	}
	if len(doc.Exceptions) > limit {
		doc.Exceptions, doc.MoreExceptions = doc.Exceptions[:limit], len(doc.Exceptions)-limit
	}
	return Answer(w, http.StatusOK, doc)
}

// historyRows is a document as a table: of groups, or of intervals.
func historyRows(doc *api.History, format string) [][]string {
	switch {
	case format == "intervals" && doc.By == string(history.ByException):
		return exceptionRows(doc.Exceptions)
	case format == "intervals":
		return sumRows("begin", doc.Intervals, func(v *api.HistoryInterval) (string, *api.HistorySums) {
			return v.Begin.Format(time.RFC3339), &v.HistorySums
		})
	}
	return sumRows(doc.By, doc.Groups, func(v *api.HistoryGroup) (string, *api.HistorySums) { return v.Name, &v.HistorySums })
}

// sumRows is a table of sums, each with what it is of.
func sumRows[T any](of string, list []T, cells func(*T) (string, *api.HistorySums)) [][]string {
	rows := [][]string{append([]string{of}, historyColumns...)}
	for i := range list {
		first, sums := cells(&list[i])
		rows = append(rows, append([]string{first}, historyCells(sums)...))
	}
	return rows
}

// exceptionRows is a table of failures by exception and time.
func exceptionRows(list []api.HistoryException) [][]string {
	rows := [][]string{{"exception", "begin", "failed"}}
	for i := range list {
		for _, c := range list[i].Counts {
			rows = append(rows, []string{list[i].Name, c.Begin.Format(time.RFC3339), strconv.FormatUint(c.Failed, 10)})
		}
	}
	return rows
}

// readHistory asks the history of a runner, and who leads that.
func readHistory(ctx context.Context, name string, k *supervisor.Runner, query history.Query) (*api.History, error) {
	log := k.History()
	if log == nil {
		return nil, Error(http.StatusNotFound, "runner %s has no history: its configuration says history off", name)
	}
	st, err := k.Status(ctx)
	if err != nil {
		return nil, Failure(err)
	}
	found, err := log.Query(ctx, query)
	switch {
	case errors.Is(err, history.ErrQuery):
		return nil, Error(http.StatusBadRequest, "%w", err)
	case err != nil:
		return nil, Failure(err)
	}
	doc := newHistory(found)
	doc.Runner, doc.By, doc.Leader = name, string(query.By), st.Leader
	for _, o := range log.Objectives() {
		doc.Objectives = append(doc.Objectives, api.HistoryObjective{
			Policy: o.Policy, Wait: o.Wait.Seconds(), Target: o.Target, Attempts: o.Attempts, Late: o.Late, Burns: o.Burn != nil,
		})
	}
	switch {
	case !st.Leader:
		doc.LeaderDetail = st.LeaderDetail
	case doc.Total.Attempts == 0 && query.Channel != "":
		doc.Warning = unknownChannel(&st, query.Channel)
	}
	return doc, nil
}

// burning are the objectives of a runner that are not kept now.
func burning(k *supervisor.Runner) (list []api.BurningObjective) {
	log := k.History()
	if log == nil {
		return nil
	}
	return newBurning(log.Objectives())
}

func newBurning(objectives []history.Objective) (list []api.BurningObjective) {
	for i := range objectives {
		o := &objectives[i]
		if o.Burn == nil {
			continue
		}
		list = append(list, api.BurningObjective{
			Code: string(runner.EventObjectiveBurns), Policy: o.Policy, Since: o.Burn.Since.UTC(), Late: o.Burn.Late, Allowed: o.Burn.Allowed,
			Window: o.Burn.Window.Seconds(), Wait: o.Wait.Seconds(),
			Text: o.Text() + ": caddy jobrunner history --from 2h --by channel shows where, and caddy jobrunner simulate whether more slots would help",
		})
	}
	return list
}

// historyQuery reads what a request asks of the history.
func historyQuery(q url.Values, now time.Time) (out history.Query, err error) {
	out = history.Query{Database: q.Get("database"), Function: q.Get("function"), By: history.By(q.Get("by"))}
	if channel := q.Get("channel"); channel != "" {
		out.Channel = channels.Normalize(channel)
		if channel == history.Other {
			out.Channel = channel
		}
	}
	switch out.By {
	case "":
		out.By = history.ByFunction
	case history.ByFunction, history.ByChannel, history.ByDatabase, history.ByException:
	default:
		return out, Error(http.StatusBadRequest, "by %q is none of function, channel, database and exception", out.By)
	}
	for name, to := range map[string]*time.Time{"from": &out.From, "to": &out.To} {
		if *to, err = pastTime(name, q.Get(name), now); err != nil {
			return out, err
		}
	}
	if s := q.Get("step"); s != "" {
		out.Step, err = duration("step", s)
	}
	return out, err
}

// pastTime reads a time, or how long ago one was; zero without a text.
func pastTime(name, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return at, nil
	}
	d, err := duration(name, s)
	if err != nil {
		return time.Time{}, Error(http.StatusBadRequest, "%s %q is neither a time such as 2030-11-30T08:00:00Z nor a duration back from now such as 36h or 7d", name, s)
	}
	return now.Add(-d), nil
}

func newHistory(r *history.Result) *api.History {
	doc := &api.History{
		From: r.From, To: r.To, Step: r.Step.Seconds(), Known: r.Known, Total: newHistorySums(&r.Total),
		Intervals: make([]api.HistoryInterval, 0, len(r.Points)), Groups: make([]api.HistoryGroup, 0, len(r.Groups)),
		Exceptions: make([]api.HistoryException, 0, len(r.Exceptions)), Folded: r.Folded, Lost: r.Lost, UnreadableIntervals: r.Unreadable, Problem: r.Problem, PutAside: r.Aside,
	}
	for i := range r.Points {
		doc.Intervals = append(doc.Intervals, api.HistoryInterval{Begin: r.Points[i].Begin, HistorySums: newHistorySums(&r.Points[i].Sums)})
	}
	for _, e := range r.Exceptions {
		out := api.HistoryException{Name: e.Name, Failed: e.Failed, Counts: []api.HistoryCount{}}
		for i, n := range e.Points {
			if n > 0 {
				out.Counts = append(out.Counts, api.HistoryCount{Begin: r.Points[i].Begin, Failed: n})
			}
		}
		doc.Exceptions = append(doc.Exceptions, out)
	}
	for i := range r.Groups {
		doc.Groups = append(doc.Groups, api.HistoryGroup{Name: r.Groups[i].Name, HistorySums: newHistorySums(&r.Groups[i].Sums)})
	}
	return doc
}

func newHistorySums(s *history.Sums) api.HistorySums {
	out := api.HistorySums{
		Attempts: s.Attempts(), Done: s.Outcomes[history.Done], Failed: s.Outcomes[history.Failed], Retried: s.Outcomes[history.Retried],
		NotRun: s.Outcomes[history.NotRun], Rescued: s.Outcomes[history.Rescued], Gone: s.Outcomes[history.Gone],
		Wait50: quantile(&s.Wait, .5), Wait95: quantile(&s.Wait, .95), Run50: quantile(&s.Run, .5), Run95: quantile(&s.Run, .95),
		Run: s.RunTotal.Seconds(),
	}
	if s.RunMost > 0 {
		out.RunMost = new(s.RunMost.Seconds())
	}
	return out
}

func quantile(l *history.Latencies, share float64) *float64 {
	if d, ok := l.Quantile(share); ok {
		return new(d.Round(time.Millisecond / 10).Seconds())
	}
	return nil
}

// historyColumns are those of a table of numbers, which historyCells fills.
var historyColumns = []string{
	"attempts", "done", "failed", "retried", "not_run", "rescued", "gone", "wait_p50_seconds", "wait_p95_seconds",
	"run_p50_seconds", "run_p95_seconds", "run_max_seconds", "run_total_seconds",
}

func historyCells(s *api.HistorySums) []string {
	var cells []string
	for _, n := range []uint64{s.Attempts, s.Done, s.Failed, s.Retried, s.NotRun, s.Rescued, s.Gone} {
		cells = append(cells, strconv.FormatUint(n, 10))
	}
	for _, f := range []*float64{s.Wait50, s.Wait95, s.Run50, s.Run95, s.RunMost, &s.Run} {
		cell := ""
		if f != nil {
			cell = strconv.FormatFloat(*f, 'f', -1, 64)
		}
		cells = append(cells, cell)
	}
	return cells
}

// table answers with comma-separated values. A name that a spreadsheet would take for a formula begins
// with a quotation mark, because names come from databases.
func table(w http.ResponseWriter, rows [][]string) error {
	var b bytes.Buffer
	out := csv.NewWriter(&b)
	for _, row := range rows {
		if strings.ContainsAny(row[0][:min(1, len(row[0]))], "=+-@\t\r") {
			row[0] = "'" + row[0]
		}
		if err := out.Write(row); err != nil {
			return Error(http.StatusInternalServerError, "the answer cannot be written: %w", err)
		}
	}
	out.Flush()
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="history.csv"`)
	_, _ = w.Write(b.Bytes()) // the client has gone
	return nil
}
