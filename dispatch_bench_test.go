//go:build unix

package jobrunner

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// oneServer is the upstream of a world without servers.
type oneServer struct{}

func (oneServer) Upstreams(context.Context) ([]driver.Upstream, error) {
	return []driver.Upstream{{Name: "odoo"}}, nil
}

// BenchmarkDispatch runs jobs without PostgreSQL and Odoo: what is left are the
// engine, its log and its events, and the mock.
func BenchmarkDispatch(b *testing.B) {
	w := mock.NewWorld()
	defer w.Close()
	w.AddDatabase("prod")
	for i := range b.N {
		job := mock.NewJob("prod", fmt.Sprintf("%08x-8f4c-4d0c-9a3f-%012x", uint32(i)*2654435761, i))
		job.Channel = fmt.Sprint("root.c", i%10)
		w.Insert(job)
	}
	left := make(chan struct{}, b.N)
	r, err := runner.New(runner.Config{
		Name: "benchmark", Postgres: &pgx.ConnConfig{}, Driver: w.Driver(), Targets: oneServer{},
		Channels: []channels.Config{{Name: "root", Capacity: 16}},
		Logger:   zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(io.Discard), zap.InfoLevel)),
		Events: func(ev runner.Event) {
			publish(ev)
			if ev.Kind.Final() {
				left <- struct{}{}
			}
		},
	})
	require.NoError(b, err)
	b.ReportAllocs()
	b.ResetTimer()
	before := testbed.OwnProcessorTime(b)
	r.Start()
	for range b.N {
		<-left
	}
	b.ReportMetric(float64((testbed.OwnProcessorTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
	b.StopTimer()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(b, r.Stop(ctx))
}

// BenchmarkPublish is what the events of one job cost when nobody listens.
func BenchmarkPublish(b *testing.B) {
	ev := runner.Event{
		Runner: "benchmark", Database: "prod", UUID: "0d5b5f4a-8f4c-4d0c-9a3f-5e8f5f0f5a3c", Channel: "root.mail",
		Model: "res.partner", Method: "write", Upstream: "http://127.0.0.1:8069", Outcome: driver.Answered.String(), Status: 200,
		Wait: time.Second, Dispatch: time.Millisecond, Run: time.Second,
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, kind := range []runner.EventKind{runner.EventDispatched, runner.EventAnswered, runner.EventJobDone} {
			ev.Kind, ev.Time = kind, time.Now()
			publish(ev)
		}
	}
}
