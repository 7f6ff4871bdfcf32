package runner_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// traced makes a configuration whose spans are recorded.
func traced(cfg *runner.Config) *tracetest.SpanRecorder {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	cfg.Tracing = &runner.Tracing{Tracer: provider.Tracer("test"), Propagator: propagation.TraceContext{}}
	return spans
}

// said returns what a span says under a name.
func said(s sdktrace.ReadOnlySpan, name string) string {
	for _, a := range s.Attributes() {
		if string(a.Key) == name {
			return a.Value.String()
		}
	}
	return ""
}

// TestSpanOfAnAttempt: each attempt is one span, whatever the number of its
// requests, and its trace has the attempt's id.
func TestSpanOfAnAttempt(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.config("root:4")
		cfg.Targets = upstreams{"odoo1", "odoo2"}
		spans := traced(&cfg)
		b.PlanFor(key("prod", "resent"), mock.Plan{FailBeforeSend: true})
		b.PlanFor(key("prod", "crash"), mock.Plan{Crash: true, RunFor: time.Second})
		r := b.start(cfg)
		resent, crash := b.one("prod", "resent"), b.one("prod", "crash")
		b.settle(2 * time.Minute)
		b.requireDone(resent, crash)
		b.requireIdle(r)
		outcomes := map[string][]string{}
		for _, s := range spans.Ended() {
			uuid := said(s, "job.uuid")
			outcomes[uuid] = append(outcomes[uuid], said(s, "job.outcome"))
			told := []string{s.Name(), said(s, "job.attempt"), said(s, "http.response.status_code")}
			if uuid == resent.UUID {
				require.Len(b, s.Events(), 2, "a request that was not sent, and one that was answered")
				require.Equal(b, b.RunsOf(resent)[1].Task.ID, s.SpanContext().TraceID().String())
				require.Equal(b, []string{"job", "1", "200"}, told)
			}
			if said(s, "job.outcome") == "rescued" {
				require.Equal(b, []string{"job", "1", ""}, told)
				require.Equal(b, "dead", said(s, "job.request_outcome"))
				require.Equal(b, codes.Error, s.Status().Code)
			}
		}
		require.Equal(b, map[string][]string{"resent": {"done"}, "crash": {"rescued", "done"}}, outcomes)
	})
}

// TestSpanEndsWithTheRunner, or it would never be exported.
func TestSpanEndsWithTheRunner(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Hour})
		cfg := b.config("root:4")
		spans := traced(&cfg)
		r := b.start(cfg)
		b.jobs("prod", "", "a", 2)
		b.settle(time.Second)
		require.Len(b, spans.Started(), 2)
		require.Empty(b, spans.Ended())
		b.stop(r)
		require.Len(b, spans.Ended(), 2)
		require.Equal(b, "left", said(spans.Ended()[0], "job.outcome"))
		b.settle(2 * time.Hour)
	})
}
