package guard

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCall(t *testing.T) {
	failure := errors.New("failure")
	require.NoError(t, Call(func() error { return nil }))
	require.ErrorIs(t, Call(func() error { return failure }), failure)
	err := Call(func() error { panic("x") })
	require.ErrorContains(t, err, "panic: x\n")
	require.ErrorContains(t, err, "TestCall", "the stack says where")
}
