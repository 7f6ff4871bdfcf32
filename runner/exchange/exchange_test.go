package exchange

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// runs is a driver that only runs.
type runs struct {
	driver.Driver
	run func(ctx context.Context) driver.Result
}

func (r runs) Run(ctx context.Context, _ driver.Upstream, _ driver.Task) driver.Result {
	return r.run(ctx)
}

func TestRegister(t *testing.T) {
	task := driver.Task{Key: channels.Key{DB: "prod", UUID: "a"}, Enqueued: 1}
	up := driver.Upstream{Name: "odoo1"}
	failure := errors.New("given up")
	for name, c := range map[string]struct {
		run  func(ctx context.Context) driver.Result
		want driver.Result
	}{
		"until it is given up": {func(ctx context.Context) driver.Result {
			<-ctx.Done()
			return driver.Result{Outcome: driver.Broken, Err: failure}
		}, driver.Result{Outcome: driver.Broken, Err: failure}},
		"a panic": {func(ctx context.Context) driver.Result {
			<-ctx.Done()
			panic("x")
		}, driver.Result{Outcome: driver.Broken}},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRegister()
			ended := make(chan driver.Result, 3)
			tell := func(_ *Exchange, result driver.Result) { ended <- result }
			x, started := r.Start(runs{run: c.run}, up, task, zap.NewNop, tell)
			require.True(t, started)
			again, started := r.Start(runs{run: c.run}, up, task, zap.NewNop, tell)
			require.False(t, started, "one request for a job at a time")
			require.Same(t, x, again)
			require.Equal(t, map[string]struct{}{task.UUID: {}}, r.OpenOf(task.DB))
			require.Empty(t, r.OpenOf("another"))
			require.Same(t, x, r.Lookup(task.Key))
			require.Equal(t, 1, r.Len())
			require.Equal(t, task, x.Attempt)
			require.Equal(t, "odoo1", x.Upstream.Name)
			x.Attach(tell)
			x.Cancel()
			require.Equal(t, c.want, <-ended)
			require.Equal(t, c.want, <-ended, "all that have attached are told")
			require.Zero(t, r.Len())
			require.Nil(t, r.Lookup(task.Key))
			x.Attach(tell)
			require.Equal(t, c.want, <-ended, "one that is over tells at once")
		})
	}
}

// What is open of a database is all of it, and nothing of another one.
func TestOpenOf(t *testing.T) {
	r := NewRegister()
	end, ended := make(chan struct{}), make(chan struct{}, 20)
	waits := runs{run: func(context.Context) driver.Result { <-end; return driver.Result{} }}
	want := map[string]map[string]struct{}{"prod": {}, "test": {}}
	for db, uuids := range want {
		for i := range 10 {
			uuid := fmt.Sprint(i)
			uuids[uuid] = struct{}{}
			_, started := r.Start(waits, driver.Upstream{}, driver.Task{Key: channels.Key{DB: db, UUID: uuid}}, zap.NewNop,
				func(*Exchange, driver.Result) { ended <- struct{}{} })
			require.True(t, started)
		}
	}
	for db, uuids := range want {
		require.Equal(t, uuids, r.OpenOf(db))
	}
	close(end)
	for range 20 {
		<-ended
	}
	require.Zero(t, r.Len())
}
