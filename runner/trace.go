package runner

import (
	"context"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Tracing makes an OpenTelemetry span of each attempt at a job. Neither of its
// parts may block.
type Tracing struct {
	// Tracer begins the spans. Each is the first one of a trace.
	Tracer trace.Tracer
	// Propagator writes a span's context into the task, for the application.
	Propagator propagation.TextMapPropagator
}

// span is that of one attempt. A nil one does nothing: without tracing there is none.
type span struct{ trace.Span }

// begin begins the span of an attempt with its first request. The trace's id becomes the name of the
// attempt, which carries the span's context to the application.
func (tr *Tracing) begin(runner, channel string, a *driver.Task) *span {
	name := strings.Trim(a.Model+"."+a.Method, ".")
	if name == "" {
		name = "job"
	}
	ctx, s := tr.Tracer.Start(context.Background(), name, trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(
			attribute.String("db.system.name", "postgresql"), attribute.String("db.namespace", a.DB),
			attribute.String("job.runner", runner), attribute.String("job.uuid", a.UUID),
			attribute.String("job.channel", channel), attribute.String("job.model", a.Model),
			attribute.String("job.method", a.Method), attribute.Int("job.attempt", int(a.Retry)+1),
		))
	a.Trace = make(map[string]string)
	tr.Propagator.Inject(ctx, propagation.MapCarrier(a.Trace))
	if id := s.SpanContext().TraceID(); id.IsValid() {
		a.ID = id.String()
	}
	return &span{s}
}

// answered notes how one request of the attempt ended.
func (s *span) answered(ev *Event) {
	if s == nil {
		return
	}
	s.AddEvent("request ended", trace.WithAttributes(
		attribute.String("job.upstream", ev.Upstream), attribute.String("job.request_outcome", ev.Outcome),
		attribute.Int("http.response.status_code", ev.Status)))
}

// end ends the span with how the attempt ended.
func (s *span) end(ev *Event) {
	if s == nil {
		return
	}
	outcome := strings.TrimPrefix(string(ev.Kind), "job_")
	s.SetAttributes(
		attribute.String("job.outcome", outcome), attribute.String("job.request_outcome", ev.Outcome),
		attribute.String("job.upstream", ev.Upstream), attribute.Float64("job.wait_seconds", ev.Wait.Seconds()))
	if ev.Status != 0 {
		s.SetAttributes(attribute.Int("http.response.status_code", ev.Status))
	}
	switch ev.Kind {
	case EventJobFailed, EventJobRescued, EventJobNotRun:
		s.SetAttributes(attribute.String("error.type", outcome))
		s.SetStatus(codes.Error, ev.Detail)
	default: // the others are as good as it gets
	}
	s.End()
}

// leave ends the span of an attempt whose end the runner will not see.
func (s *span) leave() {
	if s == nil {
		return
	}
	s.SetAttributes(attribute.String("job.outcome", "left"))
	s.End()
}
