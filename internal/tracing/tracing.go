// Package tracing makes the tracer of this process: what turns the attempts of jobs into spans and
// sends them where the environment says.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/guard"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/site"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// flushTimeout bounds how long the last spans may take on their way when tracing
// ends. Together with the default shutdown_timeout, and with the time that a runner
// has to close its connections, it stays below systemd's TimeoutStopSec of Caddy's
// unit, 5 s.
const flushTimeout = 500 * time.Millisecond

// tracers holds the process's tracer as long as a configuration uses it, so that
// spans go on over reloads. Caddy's own tracer is private to the tracing handler.
var tracers = caddy.NewUsagePool()

// tracerKey is the one key of the pool: everything about it is in the environment.
type tracerKey struct{}

// tracer makes spans and exports them in the background, in batches.
type tracer struct {
	*runner.Tracing
	provider *sdktrace.TracerProvider
	exporter *spanExporter
}

// newTracer makes what the environment says, as Caddy's tracing handler does.
func newTracer() (caddy.Destructor, error) {
	// Not the configuration's context: the exporter outlives it.
	exporter, err := autoexport.NewSpanExporter(context.Background())
	if err != nil {
		return nil, fmt.Errorf("making the exporter that the environment asks for (OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_*): %w", err)
	}
	version, _ := caddy.Version()
	res, err := resource.Merge(resource.Default(), resource.NewSchemaless(
		attribute.String("webengine.name", caddyhttp.ServerHeader), attribute.String("webengine.version", version)))
	if err != nil {
		return nil, fmt.Errorf("describing this process for spans: %w", err)
	}
	t := &tracer{exporter: &spanExporter{SpanExporter: exporter}}
	t.exporter.ctx, t.exporter.cancel = context.WithCancel(context.Background())
	t.provider = sdktrace.NewTracerProvider(sdktrace.WithBatcher(t.exporter), sdktrace.WithResource(res))
	t.Tracing = &runner.Tracing{
		Tracer:     t.provider.Tracer("github.com/caddy-jobrunner/caddy-jobrunner"),
		Propagator: autoprop.NewTextMapPropagator(),
	}
	return t, nil
}

// Destruct implements [caddy.Destructor]: the last spans are sent, if that is
// possible at once.
func (t *tracer) Destruct() error {
	defer t.exporter.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("sending the last spans: %w", err)
	}
	return nil
}

// spanExporter makes an exporter harmless: what it sends ends with the tracer,
// whatever it waits for, and a panic is an error.
type spanExporter struct {
	sdktrace.SpanExporter
	ctx    context.Context //nolint:containedctx // the life of the exporter
	cancel context.CancelFunc
}

// ExportSpans implements [sdktrace.SpanExporter].
func (e *spanExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()
	return guard.Call(func() error { return e.SpanExporter.ExportSpans(ctx, spans) })
}

// Acquire returns the tracer, nil if a configuration does not want one. It has to be released when the
// configuration is gone. Making it fails if the environment asks for an exporter that does not exist.
func Acquire(ctx caddy.Context) (t *runner.Tracing, release func() error, err error) {
	none := func() error { return nil }
	if wanted, err := wanted(ctx); err != nil || !wanted {
		return nil, none, err
	}
	value, _, err := tracers.LoadOrNew(tracerKey{}, newTracer)
	if err != nil {
		return nil, none, fmt.Errorf("tracing: %w", err)
	}
	release = sync.OnceValue(func() error {
		if _, err := tracers.Delete(tracerKey{}); err != nil {
			return fmt.Errorf("releasing the tracer: %w", err)
		}
		return nil
	})
	made, ok := value.(*tracer)
	if !ok {
		return nil, none, errors.Join(fmt.Errorf("the tracer is a %T", value), release())
	}
	return made.Tracing, release, nil
}

// wanted reports whether attempts are to be traced: a site traces its requests with
// Caddy's tracing handler, or the environment says where spans go to. Variables that
// other programs are configured with as well, like OTEL_SERVICE_NAME, do not suffice.
func wanted(ctx caddy.Context) (bool, error) {
	if disabled, err := strconv.ParseBool(os.Getenv("OTEL_SDK_DISABLED")); err == nil && disabled {
		return false, nil
	}
	if os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return false, nil
	}
	for _, name := range []string{"OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		if os.Getenv(name) != "" {
			return true, nil
		}
	}
	mod, err := ctx.AppIfConfigured("http")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for the tracing handler: %w", err)
	}
	app, ok := mod.(*caddyhttp.App)
	return ok && tracesRequests(app), nil
}

// tracesRequests reports whether a route has Caddy's tracing handler.
func tracesRequests(app *caddyhttp.App) bool {
	for _, srv := range app.Servers {
		for route := range site.Routes(srv) {
			for _, handler := range route.Handlers {
				if m, ok := handler.(caddy.Module); ok && m.CaddyModule().ID == "http.handlers.tracing" {
					return true
				}
			}
		}
	}
	return false
}
