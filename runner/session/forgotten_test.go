package session

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// collected collects the garbage: what finalizers and weak pointers let go is gone after the second time.
func collected() {
	runtime.GC()
	runtime.GC()
}

// TestQueueForgetsSessions: thousands of databases connect once and then sleep. Nothing that was kept
// for them may last.
func TestQueueForgetsSessions(t *testing.T) {
	q := new(Queue)
	var sessions []weak.Pointer[Session]
	func() {
		for range 20 {
			s := New("prod", nil, nil)
			q.enter(&s.turn, true)
			sessions = append(sessions, weak.Make(s))
		}
	}()
	for range sessions {
		q.tried(zap.NewNop(), nil)
		q.release()
	}
	require.Zero(t, q.Pressure().Held+q.Pressure().Waiting)
	collected()
	for _, s := range sessions {
		require.Nil(t, s.Value())
	}
	runtime.KeepAlive(q)
}

// vacant is a driver of databases without the application.
type vacant struct {
	driver.Driver

	opened []weak.Pointer[vacancy]
}

// vacancy is a connection to one.
type vacancy struct {
	driver.Session

	_ [1 << 10]byte // what is worth forgetting
}

func (d *vacant) OpenSession(context.Context, *pgx.ConnConfig, string) (driver.Session, error) {
	s := new(vacancy)
	d.opened = append(d.opened, weak.Make(s))
	return s, nil
}

func (*vacancy) Fingerprint(context.Context) (driver.Fingerprint, error) {
	return driver.Fingerprint{Health: driver.Undetected}, nil
}
func (*vacancy) Close(context.Context) error { return nil }

// TestClosedConnectionsAreForgotten: the session of a database without the application has no connection
// until it looks again, and keeps nothing of the last one.
func TestClosedConnectionsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(vacant)
		s := New("prod", func() Config {
			return Config{Driver: d, Queue: new(Queue), DiscoverInterval: time.Hour, Logger: zap.NewNop()}
		}, &sleeper{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go s.Run(ctx)
		synctest.Wait()
		require.Len(t, d.opened, 1)
		collected()
		require.Nil(t, d.opened[0].Value())
		runtime.KeepAlive(s)
	})
}
