package safego

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestRun(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	log := func() *zap.Logger { return zap.New(core) }
	require.True(t, Run(log, "engine", func() {}))
	require.Zero(t, logs.Len())
	require.False(t, Run(log, "engine", func() { panic("x") }))
	require.Equal(t, 1, logs.FilterMessage("panic in engine").Len())
}
