package timing

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBackoff(t *testing.T) {
	b := Backoff{First: 100 * time.Millisecond, Limit: 5 * time.Second}
	for i := range 100 {
		want := 5 * time.Second
		if i < 6 {
			want = 100 * time.Millisecond << i
		}
		got := b.Next()
		require.GreaterOrEqual(t, got, want*8/10)
		require.LessOrEqual(t, got, want*12/10)
	}
	b.Reset()
	require.LessOrEqual(t, b.Next(), 120*time.Millisecond)
}

func TestWithinSaysWhatPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := Within(t.Context(), time.Second, func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "no result within 1s")
		failure := errors.New("failure")
		require.Equal(t, failure, Within(t.Context(), time.Second, func(context.Context) error { return failure }))
	})
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		require.True(t, Sleep(t.Context(), time.Hour))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.False(t, Sleep(ctx, time.Hour))
	})
}

func TestEarliest(t *testing.T) {
	a, b := time.Unix(1, 0), time.Unix(2, 0)
	require.Equal(t, a, Earliest(b, a, b))
	require.Equal(t, b, Earliest(b))
}
