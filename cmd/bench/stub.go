package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// counts is how far the jobs are that the stub knows of.
type counts struct {
	Started int `json:"started"`
	Done    int `json:"done"`
	Running int `json:"running"`
}

// record is one request or one execution; times are in nanoseconds since 1970,
// because they are compared with those of other processes.
type record struct {
	DB   string `json:"db"`
	UUID string `json:"uuid"`
	At   int64  `json:"at"`
	End  int64  `json:"end,omitempty"`
}

// records is everything since the last time.
type records struct {
	Requests   []record `json:"requests"`
	Executions []record `json:"executions"`
	// Most is how many jobs ran at once at most.
	Most int `json:"most"`
}

// runStub is the role of the stub: it prints its address and that of its control
// endpoint, and ends when its standard input does.
func runStub(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("stub", flag.ContinueOnError)
	dsn := flags.String("dsn", "", "the URL of any database of the cluster")
	workers := flags.Int("workers", 64, "the number of workers")
	if err := flags.Parse(args); err != nil {
		return err
	}
	postgres, err := pgx.ParseConfig(*dsn)
	if err != nil {
		return fmt.Errorf("parsing the address of PostgreSQL: %w", err)
	}
	s, err := odoostub.New(odoostub.Options{
		Workers: *workers, Backlog: 1024,
		Postgres: func(database string) *pgx.ConnConfig {
			c := postgres.Copy()
			c.Database = database
			return c
		},
	})
	if err != nil {
		return err
	}
	defer s.Close()
	var lc net.ListenConfig
	control, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	server := &http.Server{Handler: controlHandler(s.Recorder()), ReadHeaderTimeout: time.Minute}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent, however that ends
		_ = server.Close()
	}()
	fmt.Printf("%s %s\n", s.Addr(), control.Addr())
	if err := server.Serve(control); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the control endpoint: %w", err)
	}
	return nil
}

// controlHandler is how the benchmark asks its stub.
func controlHandler(r *odoostub.Recorder) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /counts", func(w http.ResponseWriter, _ *http.Request) {
		n := r.CountOutcomes()
		total := 0
		for _, c := range n {
			total += c
		}
		reply(w, counts{Started: total, Done: n[odoostub.Done], Running: n[""]})
	})
	mux.HandleFunc("POST /take", func(w http.ResponseWriter, _ *http.Request) {
		most := r.MaxConcurrent("root")
		requests, executions := r.Reset()
		out := records{Most: most}
		for _, q := range requests {
			if q.UUID == "" { // a check whether the server is there
				continue
			}
			out.Requests = append(out.Requests, record{DB: q.DB, UUID: q.UUID, At: q.Time.UnixNano()})
		}
		for _, x := range executions {
			if x.Outcome == odoostub.Done {
				out.Executions = append(out.Executions, record{DB: x.DB, UUID: x.UUID, At: x.Start.UnixNano(), End: x.End.UnixNano()})
			}
		}
		reply(w, out)
	})
	// Waits until one job is done, for those that are sent one at a time.
	mux.HandleFunc("GET /done", func(w http.ResponseWriter, q *http.Request) {
		db, uuid := q.FormValue("db"), q.FormValue("uuid")
		err := r.Await(q.Context(), func() bool {
			return r.Executions(db, uuid) > 0 && r.CountOutcomes()[odoostub.Done] > 0
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusGatewayTimeout)
			return
		}
		reply(w, record{DB: db, UUID: uuid, At: r.FirstRequestAt(db, uuid).UnixNano()})
	})
	return mux
}

func reply(w io.Writer, v any) {
	_ = json.NewEncoder(w).Encode(v) //nolint:errchkjson // at most the benchmark has gone
}
