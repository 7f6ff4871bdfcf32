package postgres

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestMessages: however the stream is cut into pieces, what fits passes unchanged and what does not
// ends it before it is read.
func TestMessages(t *testing.T) {
	t.Parallel()
	message := func(length int) []byte {
		b := binary.BigEndian.AppendUint32([]byte{'D'}, uint32(length))
		return append(b, make([]byte, min(length, 1000)-4)...)
	}
	rapid.Check(t, func(t *rapid.T) {
		stream := binary.BigEndian.AppendUint32([]byte{readyForQuery}, 4)
		for range rapid.IntRange(0, 20).Draw(t, "messages") {
			stream = append(stream, message(rapid.IntRange(4, 1000).Draw(t, "length"))...)
		}
		cut := func(r io.Reader) io.Reader { return r }
		if rapid.Bool().Draw(t, "byte by byte") {
			cut = iotest.OneByteReader
		}
		got, err := io.ReadAll(&messages{from: cut(bytes.NewReader(stream))})
		require.NoError(t, err)
		require.Len(t, got, len(stream))
		large := append(bytes.Clone(stream), message(rapid.IntRange(MessageLimit+1, 1<<31).Draw(t, "large"))...)
		_, err = io.ReadAll(&messages{from: cut(bytes.NewReader(large))})
		require.ErrorIs(t, err, errTooLarge)
	})
}

// TestMessagesOfTheBeginning: a server that never says that it is ready is not listened to for ever.
func TestMessagesOfTheBeginning(t *testing.T) {
	t.Parallel()
	one := append(binary.BigEndian.AppendUint32([]byte{'S'}, 1000), make([]byte, 996)...)
	many := bytes.Repeat(one, MessageLimit/1000+1)
	_, err := io.ReadAll(&messages{from: bytes.NewReader(many)})
	require.ErrorIs(t, err, errTooLarge)
	_, err = io.ReadAll(&messages{from: bytes.NewReader(many[:len(many)-len(one)])})
	require.NoError(t, err)
	ready := binary.BigEndian.AppendUint32([]byte{readyForQuery}, 4)
	_, err = io.ReadAll(&messages{from: bytes.NewReader(append(ready, many...))})
	require.NoError(t, err)
}

// TestLimitOfTheBeginning: what is as large as the limit fits.
func TestLimitOfTheBeginning(t *testing.T) {
	t.Parallel()
	m := &messages{}
	require.True(t, m.fits(MessageLimit))
	require.False(t, m.fits(1))
	m.ready = true
	require.True(t, m.fits(MessageLimit))

	head := func(length uint32) []byte { return binary.BigEndian.AppendUint32([]byte{'D'}, length) }
	require.NoError(t, m.follow(head(MessageLimit)))
	m.body = 0
	require.ErrorIs(t, m.follow(head(MessageLimit+1)), errTooLarge)
}
