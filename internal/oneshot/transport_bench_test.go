//go:build unix

package oneshot

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// answererVariable makes the test binary the server of the benchmarks, in another
// process, so that what it costs is not measured.
const answererVariable = "JOBRUNNER_TEST_ANSWERER"

func init() {
	if os.Getenv(answererVariable) == "" {
		return
	}
	if err := answerer(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// openPath is what the answerer does not answer, as if the job ran for long.
const openPath = "/open"

// answerer answers requests as Odoo does, and hangs up. It writes its address
// to the standard output and ends with its standard input.
func answerer() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, l.Addr()); err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				if req.URL.Path == openPath {
					_, _ = r.ReadByte()
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 0\r\n"+
					"Server: Werkzeug/2.0.2 Python/3.10\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\n\r\n")
			}()
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// startAnswerer starts the server and returns its address.
func startAnswerer(b *testing.B) string {
	b.Helper()
	cmd := exec.CommandContext(context.Background(), os.Args[0])
	cmd.Env = append(os.Environ(), answererVariable+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		require.NoError(b, in.Close())
		require.NoError(b, cmd.Wait())
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(b, err)
	return strings.TrimSpace(address)
}

// standard is net/http's transport with the dialer and the limits of [Transport], and with
// everything switched off that a job's request does not need.
func standard(e Endpoint) *http.Transport {
	t := New(e)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return t.dial(ctx) },
		TLSHandshakeTimeout:    tlsHandshakeTimeout,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponseHeader,
		WriteBufferSize:        bufferSize,
		ReadBufferSize:         bufferSize,
		Protocols:              protocols,
	}
}

// transports are what the benchmarks compare.
var transports = []struct {
	name string
	make func(Endpoint) http.RoundTripper
}{
	{"sender", func(e Endpoint) http.RoundTripper { return New(e) }},
	{"oneshot", func(e Endpoint) http.RoundTripper { return New(e) }},
	{"standard", func(e Endpoint) http.RoundTripper { return standard(e) }},
}

// BenchmarkExchange runs jobs that take no time: what is left is the request. The
// figure that counts is the processor time, "cpu-ns/op".
func BenchmarkExchange(b *testing.B) {
	for _, workers := range []int{1, 16} {
		for _, c := range transports {
			b.Run(fmt.Sprintf("workers=%d/%s", workers, c.name), func(b *testing.B) {
				e := Endpoint{Network: "tcp", Address: startAnswerer(b)}
				up := driver.Upstream{Name: e.Name(), Scheme: e.Scheme(), Host: e.Address, Transport: c.make(e)}
				if s := NewSender(e); s != nil && c.name == "sender" {
					up.Sender = s
				}
				exchanges(b, workers, up)
			})
		}
	}
}

func exchanges(b *testing.B, workers int, up driver.Upstream) {
	b.Helper()
	d := odoo.New(odoo.Options{})
	t := driver.Task{
		Key: channels.Key{DB: "prod", UUID: "0d5b5f4a-8f4c-4d0c-9a3f-5e8f5f0f5a3c"},
		ID:  "4bf92f3577b34da6a3ce929d0e0e4736",
	}
	b.ReportAllocs()
	before := testbed.OwnProcessorTime(b)
	jobs := make(chan struct{})
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range jobs {
				// A goroutine and a context for each, as in the engine: its stack
				// begins small.
				done := make(chan driver.Result)
				ctx, cancel := context.WithCancel(context.Background())
				go func() { done <- d.Run(ctx, up, t) }()
				if r := <-done; r.Outcome != driver.Answered {
					b.Error(r.Outcome, r.Err)
				}
				cancel()
			}
		})
	}
	for b.Loop() {
		jobs <- struct{}{}
	}
	close(jobs)
	wg.Wait()
	b.ReportMetric(float64((testbed.OwnProcessorTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// BenchmarkOpen keeps requests open, as jobs that run for long do. The figures that count are what
// each of them occupies: "B/request" of memory and "goroutines/request".
func BenchmarkOpen(b *testing.B) {
	for _, c := range transports[1:] { // a sender does not tell when it has sent
		b.Run(c.name, func(b *testing.B) {
			e := Endpoint{Network: "tcp", Address: startAnswerer(b)}
			transport := c.make(e)
			for b.Loop() {
				openRequests(b, e, transport)
			}
		})
	}
}

func openRequests(b *testing.B, e Endpoint, transport http.RoundTripper) {
	b.Helper()
	const requests = 500
	ctx, cancel := context.WithCancel(context.Background())
	memory, goroutines := occupied(), runtime.NumGoroutine()
	var sent, ended sync.WaitGroup
	for range requests {
		sent.Add(1)
		traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			WroteRequest: func(httptrace.WroteRequestInfo) { sent.Done() },
		})
		req, err := http.NewRequestWithContext(traced, http.MethodGet, "http://"+e.Address+openPath, nil)
		require.NoError(b, err)
		ended.Go(func() {
			if res, err := transport.RoundTrip(req); err == nil {
				_ = res.Body.Close()
			}
		})
	}
	sent.Wait()
	b.ReportMetric(float64(occupied()-memory)/requests, "B/request")
	b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/requests, "goroutines/request")
	cancel()
	ended.Wait()
}

// occupied is the memory in use, the stacks of goroutines included.
func occupied() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
