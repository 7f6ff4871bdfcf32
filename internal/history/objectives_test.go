package history

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// TestObjectives: attempts count for the policy whose objective holds for them, over reloads, as long as that
// stays; those of all jobs have nothing to burn.
func TestObjectives(t *testing.T) {
	b := newBook(t, t.TempDir())
	b.ends(1, Done, mail)
	b.count()
	require.Empty(t, b.Objectives())
	policies := func(wait time.Duration) []policy.Policy {
		return []policy.Policy{
			{Channels: []string{"root.export"}, Objective: &policy.Objective{Wait: time.Second}},
			{Channels: []string{"root.mail"}, Database: "prod", Objective: &policy.Objective{Wait: wait, Percent: 95}},
			{Channels: []string{"root"}, Objective: &policy.Objective{Wait: time.Hour, Percent: 80}},
			{Channels: []string{"root.mail"}, Timeout: &policy.Timeout{After: time.Hour}},
		}
	}
	configure := func(wait time.Duration) {
		b.Configure(Options{Dir: b.options.Dir, Logger: zap.NewNop(), Policies: policies(wait)})
	}
	configure(time.Second)
	put := func(channel, database string, wait time.Duration) {
		b.notes.put(note{at: b.at.UnixNano(), series: Series{Channel: channel, Database: database}, wait: wait, run: 1})
	}
	put("root.mail", "prod", time.Second)       // in time
	put("root.mail.big", "prod", 2*time.Second) // below it, late
	put("root.mail", "test", 2*time.Hour)       // of root, late
	put("root.export", "prod", time.Hour)       // all of them are to be in time
	put("root.mail", "prod", 0)                 // was not sent
	b.count()
	want := []Objective{
		{Policy: "policy root.mail database prod", Wait: time.Second, Target: .95, Attempts: 2, Late: 1},
		{Policy: "policy root", Wait: time.Hour, Target: .8, Attempts: 1, Late: 1},
	}
	require.Equal(t, want, b.Objectives())
	configure(time.Second)
	require.Equal(t, want, b.Objectives(), "a reload changes nothing")
	configure(time.Minute)
	require.Zero(t, b.Objectives()[0].Attempts, "that is another objective")
	require.EqualValues(t, 1, b.Objectives()[1].Attempts)
	for i := range objectiveCache + 10 {
		put(fmt.Sprint("root.", i), "prod", time.Second)
		if i%1000 == 0 {
			b.count()
		}
	}
	b.count()
	require.LessOrEqual(t, len(b.objectives.known), objectiveCache)
	require.EqualValues(t, objectiveCache+11, b.Objectives()[1].Attempts)
}
