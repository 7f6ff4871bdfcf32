package pgtest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

var (
	shared    sharedCluster
	databases atomic.Int64
)

// sharedCluster is the one cluster of a test binary, started when first used.
type sharedCluster struct {
	mu      sync.Mutex
	cluster *Cluster
	err     error
}

// Shared returns the cluster that all tests of this test binary share. The
// package's TestMain must end it: see [Main].
func Shared(tb testing.TB) *Cluster {
	tb.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.cluster == nil && shared.err == nil {
		// Not the test's context: the cluster outlives the test.
		shared.cluster, shared.err = Start(context.Background(), Options{})
	}
	if shared.err != nil {
		tb.Fatalf("starting postgresql: %v", shared.err)
	}
	return shared.cluster
}

// Own starts a cluster for one test only, which may stop and kill it.
func Own(tb testing.TB, opts Options) *Cluster {
	tb.Helper()
	c, err := Start(tb.Context(), opts)
	if err != nil {
		tb.Fatalf("starting postgresql: %v", err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Errorf("closing postgresql: %v", err)
		}
	})
	return c
}

// Main runs the tests, ends the shared cluster and looks for leaked goroutines.
// Use it as
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
func Main(m *testing.M, opts ...goleak.Option) int {
	code := m.Run()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.cluster != nil {
		if err := shared.cluster.Close(); err != nil {
			fmt.Fprintf(os.Stderr, "pgtest: %v\n", err)
			code = max(code, 1)
		}
		shared.cluster = nil
	}
	if code != 0 {
		return code
	}
	if err := goleak.Find(opts...); err != nil {
		fmt.Fprintf(os.Stderr, "goleak: %v\n", err)
		return 1
	}
	return 0
}

// NewDatabase creates an empty database with a name that no other test has, and
// drops it when the test ends.
func (c *Cluster) NewDatabase(tb testing.TB) string {
	tb.Helper()
	return c.NewDatabaseFrom(tb, emptyTemplate)
}

// NewDatabaseFrom is NewDatabase with a template to copy. Nobody may be
// connected to the template meanwhile.
func (c *Cluster) NewDatabaseFrom(tb testing.TB, template string) string {
	tb.Helper()
	name := fmt.Sprintf("%s_%d", databasePrefix(tb.Name()), databases.Add(1))
	if err := c.CreateDatabase(tb.Context(), name, template); err != nil {
		tb.Fatalf("creating a database: %v", err)
	}
	tb.Cleanup(func() {
		// A test that stopped the server itself has nothing to clean up here.
		if !c.Running() {
			return
		}
		if err := c.DropDatabase(context.Background(), name); err != nil {
			tb.Errorf("dropping a database: %v", err)
		}
	})
	return name
}

// databasePrefix makes an identifier out of a test's name, short enough for a
// number to follow.
func databasePrefix(test string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, test)
	return name[:min(len(name), 40)]
}
