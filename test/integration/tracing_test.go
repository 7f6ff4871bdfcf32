package integration

import (
	"bytes"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// receiver takes spans as OTLP over HTTP.
type receiver struct {
	*httptest.Server
	hang chan struct{} // if not nil, it answers when that is closed

	mu    sync.Mutex
	asked int
	spans []*trace.Span
}

func newReceiver(t *testing.T, hang chan struct{}) *receiver {
	r := &receiver{hang: hang}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var msg collector.ExportTraceServiceRequest
	if err != nil || req.URL.Path != "/v1/traces" || proto.Unmarshal(body, &msg) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	r.asked++
	for _, resource := range msg.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			r.spans = append(r.spans, scope.GetSpans()...)
		}
	}
	r.mu.Unlock()
	if r.hang != nil {
		<-r.hang
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// requests returns how many have come.
func (r *receiver) requests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// of returns the spans of a job.
func (r *receiver) of(uuid string) (found []*trace.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if attributes(s)["job.uuid"] == uuid {
			found = append(found, s)
		}
	}
	return found
}

// attributes returns the texts and numbers that a span says.
func attributes(s *trace.Span) map[string]any {
	all := make(map[string]any)
	for _, a := range s.GetAttributes() {
		v := a.GetValue()
		all[a.GetKey()] = v.GetStringValue()
		if v.GetStringValue() == "" {
			all[a.GetKey()] = int(v.GetIntValue())
		}
	}
	return all
}

// exporting reports whether a goroutine of the SDK's is there.
func exporting() bool {
	stacks := make([]byte, 4<<20)
	return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("otel/sdk/trace."))
}

// traceTo lets the environment say where spans go, at once.
func traceTo(t *testing.T, r *receiver) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
}

// TestSpans: each attempt is a span, and Odoo gets its context.
func TestSpans(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	r := newReceiver(t, nil)
	tb.run()
	db := tb.dbs[0]
	tb.enqueue(db, odoostub.JobSpec{})
	tb.untilStates(map[string]int{"done": 1})
	require.False(t, exporting(), "nothing is there for what nobody wants")

	traceTo(t, r)
	tb.load()
	done := tb.enqueue(db, in("mail", odoostub.JobSpec{}))[0]
	failed := tb.enqueue(db, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Fail: "ValueError"}})[0]
	tb.until("the spans arrive", func() bool { return len(r.of(done)) > 0 && len(r.of(failed)) > 0 })
	require.Len(t, r.of(done), 1)
	require.Len(t, r.of(failed), 1)
	span := r.of(done)[0]
	require.Equal(t, trace.Span_SPAN_KIND_CLIENT, span.GetKind())
	require.Contains(t, span.GetName(), "stub.model.")
	require.Empty(t, span.GetParentSpanId())
	require.Greater(t, span.GetEndTimeUnixNano(), span.GetStartTimeUnixNano())
	got := attributes(span)
	for name, want := range map[string]any{
		"db.namespace": db, "job.channel": "root.mail", "job.model": "stub.model", "job.attempt": 1, "job.runner": "default",
		"job.upstream": "http://" + tb.Odoo[0].Addr(), "job.outcome": "done", "job.request_outcome": "answered",
		"http.response.status_code": 200,
	} {
		require.Equal(t, want, got[name], name)
	}
	require.NotContains(t, span.String(), "gate", "no arguments of jobs")
	require.Equal(t, "failed", attributes(r.of(failed)[0])["job.outcome"])
	require.Equal(t, trace.Status_STATUS_CODE_ERROR, r.of(failed)[0].GetStatus().GetCode())

	seen := 0
	for _, req := range tb.Recorder.AllRequests() {
		if req.UUID == done && strings.HasSuffix(req.Path, "/runjob") {
			seen++
			id := hex.EncodeToString(span.GetTraceId())
			require.Equal(t, id, req.Header.Get("X-Request-ID"))
			require.Equal(t, "00-"+id+"-"+hex.EncodeToString(span.GetSpanId())+"-01", req.Header.Get("Traceparent"))
		}
	}
	require.Equal(t, 1, seen)

	// A reload interrupts no span, and one that ends tracing ends the exporter.
	long := tb.enqueue(db, gated("end"))[0]
	tb.untilRunning(1)
	tb.tree = "root:5"
	tb.load()
	tb.Gates.Open("end")
	tb.until("the span arrives", func() bool { return len(r.of(long)) == 1 })
	t.Setenv("OTEL_SDK_DISABLED", "true")
	tb.tree = "root:6"
	tb.load()
	tb.until("the exporter has ended", func() bool { return !exporting() })
	before := r.requests()
	tb.enqueue(db, odoostub.JobSpec{})
	tb.untilStates(map[string]int{"done": 4, "failed": 1})
	require.Equal(t, before, r.requests())
}

// TestBrokenExporter: jobs do not wait for whoever should take the spans, and
// neither does a reload.
func TestBrokenExporter(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	hang := make(chan struct{})
	r := newReceiver(t, hang)
	t.Cleanup(func() { close(hang) })
	traceTo(t, r)
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5")
	tb.run()
	tb.enqueue(tb.dbs[0], repeat(100, odoostub.JobSpec{})...)
	tb.untilStates(map[string]int{"done": 100})
	tb.until("it is asked", func() bool { return r.requests() > 0 })
	tb.exactlyOnce(map[string]int{"root": 4})
	t.Setenv("OTEL_SDK_DISABLED", "true")
	tb.tree = "root:5"
	began := time.Now()
	tb.load()
	require.Less(t, time.Since(began), 10*time.Second)
	tb.until("the exporter has ended", func() bool { return !exporting() })
}
