package runner

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMailbox(t *testing.T) {
	m := newMailbox()
	n := 0
	require.True(t, m.post(func() { n++ }))
	require.True(t, m.post(func() { n++ }))
	<-m.signal
	for _, f := range m.take() {
		f()
	}
	require.Equal(t, 2, n)
	require.Empty(t, m.take())
	require.True(t, m.post(func() { n++ }))
	m.close()
	m.close()
	require.False(t, m.post(func() { n++ }))
	require.Empty(t, m.take())
	require.Equal(t, 2, n)
	<-m.gone
}

func TestStateNames(t *testing.T) {
	for s := DatabaseConnecting; s <= DatabaseYielding; s++ {
		require.NotEmpty(t, s.String())
	}
	require.Equal(t, "invalid", DatabaseState(99).String())
}
