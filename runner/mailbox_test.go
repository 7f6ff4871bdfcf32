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

// Letters that are being read are not overwritten by those that arrive meanwhile, and nothing of those
// that have been read is kept.
func TestMemoryOfLetters(t *testing.T) {
	m := newMailbox()
	var read []string
	letter := func(name string) func() { return func() { read = append(read, name) } }
	var before []func()
	for round := range 3 {
		m.post(func() { m.post(letter("later")); m.post(letter("later still")) })
		m.post(letter("now"))
		letters := m.take()
		for _, f := range letters {
			f()
		}
		m.giveBack(letters)
		for _, f := range letters {
			require.Nil(t, f)
		}
		before = letters
		require.Equal(t, []string{"now"}, read, round)
		rest := m.take()
		require.Len(t, rest, 2)
		for _, f := range rest {
			f()
		}
		m.giveBack(rest)
		require.Equal(t, []string{"now", "later", "later still"}, read)
		read = nil
	}
	require.LessOrEqual(t, cap(before), 4, "memory is used again")
	// The first one takes the letters that wait, the second one the memory for those that follow.
	kept := func(letters []func()) int {
		m.giveBack(letters)
		m.take()
		return cap(m.take())
	}
	require.Equal(t, spareLimit, kept(make([]func(), spareLimit)))
	require.Zero(t, kept(make([]func(), spareLimit+1)), "but not that of very many")
	m.close()
	require.Zero(t, kept(before))
}

func TestStateNames(t *testing.T) {
	for s := DatabaseConnecting; s <= DatabaseYielding; s++ {
		require.NotEmpty(t, s.String())
	}
	require.Equal(t, "invalid", DatabaseState(99).String())
}
