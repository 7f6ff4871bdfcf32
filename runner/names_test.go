package runner_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// TestTooManyChannelNames: the jobs all run, it is said where they are counted, and a channel that is
// paused or configured later holds for those among them that name it.
func TestTooManyChannelNames(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("db")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		var keys []channels.Key
		cfg := b.config("root:10")
		r := b.start(cfg)
		for i := range channels.NamesPerDatabase + 20 {
			keys = append(keys, b.one("db", fmt.Sprintf("job%d", i), func(j *mock.Job) { j.Channel = fmt.Sprintf("root.c%d", i) }))
		}
		b.settle(100 * time.Millisecond) // so that these have the places
		for i := range 30 {
			keys = append(keys, b.one("db", fmt.Sprintf("late%d", i), func(j *mock.Job) { j.Channel, j.Priority = "root.late", 99 }))
		}
		b.settle(6 * time.Second)
		db := b.status(r).Databases[0]
		require.Equal(b, 50, db.Sharing)
		require.LessOrEqual(b, len(b.status(r).Channels), 1+channels.NamesPerDatabase+1)
		warning := "jobs name more channels than a database can have, those of further names share (others) below the nearest configured one"
		require.Equal(b, 1, b.logged(warning))
		b.settle(50 * time.Second)
		require.Equal(b, 1, b.logged(warning), "once a minute")
		b.settle(20 * time.Second)
		require.Equal(b, 2, b.logged(warning))

		require.NoError(b, r.Control(b.Context(), runner.Controls{Pauses: []runner.Pause{{Channel: "late"}}}))
		b.settle(time.Minute)
		require.Zero(b, b.MaxConcurrent(late), "a channel that is paused is")
		cfg = b.config("root:10,late:1")
		require.NoError(b, r.Reconfigure(cfg))
		require.NoError(b, r.Control(b.Context(), runner.Controls{}))
		b.settle(2 * time.Minute)
		require.Equal(b, 1, b.MaxConcurrent(late), "a channel that is configured has its limit")
		b.requireRanOnce(keys...)
		require.Zero(b, b.status(r).Databases[0].Sharing, "the places are given back")
		require.Zero(b, b.logged("a full read repaired what no notification had told"))
		b.requireIdle(r)
	})
}

func late(r mock.Run) bool { return r.Job.Channel == "root.late" }
