package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/command"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

func TestPlanHasAllJobsOnce(t *testing.T) {
	for _, total := range []int{minimumJobs, 1000, 1001, 1003} {
		seen := make(map[string]bool)
		for _, batch := range plan(total) {
			for _, job := range batch {
				require.False(t, seen[job.UUID])
				seen[job.UUID] = true
			}
		}
		require.Len(t, seen, total)
	}
}

// play lets a job be asked for and run as often as its ticket says.
func play(r *odoostub.Recorder, t ticket, channel string) {
	for run := range t.runs {
		at := t.committed.Add(time.Duration(run+1) * time.Second)
		outcome := odoostub.Done
		switch {
		case run < t.runs-1:
			outcome = odoostub.Retried
		case t.fails:
			outcome = odoostub.Failed
		}
		r.AddRequest(odoostub.Request{Time: at, Server: "odoo-1", DB: t.db, UUID: t.uuid})
		r.Begin(odoostub.Execution{Server: "odoo-1", DB: t.db, UUID: t.uuid, Channel: channel, Start: at})(at.Add(time.Millisecond), outcome)
	}
}

func TestVerdict(t *testing.T) {
	start := time.Now()
	job := ticket{db: "demo_shop", uuid: "job", priority: ordinary, runs: 1, committed: start}
	tests := map[string]struct {
		change func(r *result)
		wrong  string
	}{
		"all is well": {func(*result) {}, ""},
		"a job was never run": {func(r *result) {
			r.tickets = append(r.tickets, ticket{db: "demo_shop", uuid: "lost", runs: 1})
		}, "lost"},
		"a job was run twice": {func(r *result) { play(r.recorder, job, "root.mail") }, "duplicates"},
		"a job was asked for twice": {func(r *result) {
			r.recorder.AddRequest(odoostub.Request{Time: start, DB: job.db, UUID: job.uuid})
		}, "duplicates"},
		"two jobs in a sequential channel": {func(r *result) {
			for _, uuid := range []string{"a", "b"} {
				other := ticket{db: "demo_shop", uuid: uuid, runs: 1, committed: start}
				r.tickets = append(r.tickets, other)
				play(r.recorder, other, "root.invoices")
			}
		}, "channels above capacity"},
		"a job was left":          {func(r *result) { r.leftBehind = []odoostub.Leftover{{UUID: "job"}} }, "left behind"},
		"the run route is public": {func(r *result) { r.public = 200 }, "run route, publicly"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			retried := ticket{db: "demo_shop", uuid: "retried", runs: 2, fails: true, committed: start}
			r := &result{recorder: &odoostub.Recorder{}, tickets: []ticket{job, retried}, elapsed: time.Second, public: 404}
			play(r.recorder, job, "root.mail")
			play(r.recorder, retried, "root.stock")
			test.change(r)
			var out bytes.Buffer
			require.Equal(t, test.wrong == "", r.report(&out), out.String())
			if test.wrong != "" {
				require.Regexp(t, `(?m)^  `+test.wrong+` +\d+  WRONG$`, out.String())
				return
			}
			require.NotContains(t, out.String(), "WRONG")
			require.Equal(t, 8, strings.Count(out.String(), "  ok\n"))
		})
	}
}

// TestSuggestions: each command of the runner that is suggested exists, with its flags.
func TestSuggestions(t *testing.T) {
	c := &testbed.Caddy{Admin: "127.0.0.1:2019", Options: testbed.Options{Binary: "caddy"}}
	checked := 0
	for _, s := range common(c, func(path string) string { return path }) {
		for line := range strings.SplitSeq(s.command, "\n") {
			args, ok := strings.CutPrefix(line, "caddy jobrunner ")
			if !ok {
				continue
			}
			checked++
			root := &cobra.Command{Use: "jobrunner"}
			command.New().CobraFunc(root)
			cmd, rest, err := root.Find(strings.Fields(args))
			require.NoError(t, err, line)
			require.NoError(t, cmd.ParseFlags(rest), line)
			require.NoError(t, cmd.Args(cmd, cmd.Flags().Args()), line)
		}
	}
	require.Greater(t, checked, 5)
}

// TestRealJobs: the channels of the real jobs exist, with the capacities that are compared.
func TestRealJobs(t *testing.T) {
	tree, _, err := channels.ParseConfigs(realTree)
	require.NoError(t, err)
	capacity := map[string]int{}
	for _, c := range tree {
		capacity[c.Name] = c.Capacity
	}
	for _, b := range realJobs {
		require.NotZero(t, capacity[b.channel], b.channel)
		if b.most > 0 {
			require.Equal(t, capacity[b.channel], b.most, b.key)
		}
	}
}
