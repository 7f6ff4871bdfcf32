package runner

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Tracing makes an OpenTelemetry span of each attempt at a job. Neither of its
// parts may block.
type Tracing struct {
	// Tracer begins the spans. Each is the first one of a trace.
	Tracer trace.Tracer
	// Propagator writes a span's context into the headers of the job's request.
	Propagator propagation.TextMapPropagator
}

// span is that of one attempt. A nil one does nothing: without tracing there is
// none.
type span struct {
	trace.Span
	// header carries its context to the application.
	header http.Header
}

// begin begins the span of an attempt with its first request, if there is tracing. The trace's id
// becomes the name of the attempt.
func (tr *Tracing) begin(runner, channel string, t *task) *span {
	if tr == nil {
		return nil
	}
	a := &t.attempt
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
	begun := &span{Span: s, header: make(http.Header)}
	tr.Propagator.Inject(ctx, propagation.HeaderCarrier(begun.header))
	if id := s.SpanContext().TraceID(); id.IsValid() {
		a.ID = id.String()
	}
	return begun
}

// headers are those of the attempt's requests.
func (s *span) headers() http.Header {
	if s == nil {
		return nil
	}
	return s.header
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
