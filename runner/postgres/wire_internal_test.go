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
	_, err := m.follow(head(MessageLimit))
	require.NoError(t, err)
	m.head, m.body = nil, 0
	_, err = m.follow(head(MessageLimit + 1))
	require.ErrorIs(t, err, errTooLarge)
}

// note is a notification as it is sent.
func note(pid uint32, payload string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{notification}, uint32(len(payload)+4+4+len("channel\x00\x00")))
	return append(append(append(binary.BigEndian.AppendUint32(b, pid), "channel\x00"...), payload...), 0)
}

// TestNotificationsAreTakenOut: however the stream is cut into pieces, notifications are heard in their
// order, and the rest passes unchanged.
func TestNotificationsAreTakenOut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		stream := binary.BigEndian.AppendUint32([]byte{readyForQuery}, 4)
		rest := bytes.Clone(stream)
		var want, got []string
		for range rapid.IntRange(0, 20).Draw(t, "messages") {
			if rapid.Bool().Draw(t, "notification") {
				payload := rapid.StringMatching("[a-z]{0,50}").Draw(t, "payload")
				stream, want = append(stream, note(7, payload)...), append(want, payload)
				continue
			}
			length := rapid.IntRange(4, 100).Draw(t, "length")
			message := append(binary.BigEndian.AppendUint32([]byte{'D'}, uint32(length)), bytes.Repeat([]byte{notification}, length-4)...)
			stream, rest = append(stream, message...), append(rest, message...)
		}
		cut := func(r io.Reader) io.Reader { return r }
		switch rapid.IntRange(0, 2).Draw(t, "cut") {
		case 0:
			cut = iotest.OneByteReader
		case 1:
			cut = iotest.HalfReader
		}
		m := &messages{from: cut(bytes.NewReader(stream)), hear: func(pid uint32, payload []byte) {
			require.EqualValues(t, 7, pid)
			got = append(got, string(payload))
		}}
		passed, err := io.ReadAll(m)
		require.NoError(t, err)
		require.Equal(t, rest, passed)
		require.Equal(t, want, got)
	})
}

// TestWhatIsNoNotification ends the connection, and so does one that is too large.
func TestWhatIsNoNotification(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"no number": "abc", "no channel": "1234channel", "no payload": "1234channel\x00payload"} {
		stream := append(binary.BigEndian.AppendUint32([]byte{notification}, uint32(len(body)+4)), body...)
		m := &messages{from: bytes.NewReader(stream), hear: func(uint32, []byte) { t.Error(name) }}
		_, err := io.ReadAll(m)
		require.ErrorIs(t, err, errNotification, name)
	}
	stream := binary.BigEndian.AppendUint32([]byte{notification}, MessageLimit+1)
	_, err := io.ReadAll(&messages{from: bytes.NewReader(stream), hear: func(uint32, []byte) {}})
	require.ErrorIs(t, err, errTooLarge)
}

// TestMemoryOfNotifications: a large one is not remembered, and a small one needs no new memory.
func TestMemoryOfNotifications(t *testing.T) {
	t.Parallel()
	m := &messages{hear: func(uint32, []byte) {}}
	follow := func(payload string) {
		kept, err := m.follow(note(1, payload))
		require.NoError(t, err)
		require.Zero(t, kept)
	}
	follow("a")
	kept := cap(m.note)
	require.Positive(t, kept)
	follow("b")
	require.Equal(t, kept, cap(m.note))
	follow(string(make([]byte, 2*noteLimit)))
	require.Zero(t, cap(m.note))
}

// TestWaitEndsWithANotification, and not with what else arrives. Without a wait, there is only the rest.
func TestWaitEndsWithANotification(t *testing.T) {
	t.Parallel()
	other := []byte{'N', 0, 0, 0, 5, 0}
	heard := 0
	m := &messages{hear: func(uint32, []byte) { heard++ }, waiting: true}
	p := make([]byte, 100)
	for _, chunk := range [][]byte{other, append(bytes.Clone(other), note(1, "a")...)} {
		m.from = bytes.NewReader(chunk)
		n, err := m.Read(p)
		require.NoError(t, err)
		require.Equal(t, other, p[:n])
	}
	require.Equal(t, 1, heard)
	m.from = iotest.ErrReader(io.ErrNoProgress)
	_, err := m.Read(p)
	require.Equal(t, errHeard, err, "nothing more is read")

	m.heard = false
	m.from = io.MultiReader(bytes.NewReader(note(1, "b")), iotest.ErrReader(io.ErrNoProgress))
	_, err = m.Read(p)
	require.Equal(t, errHeard, err)

	m.waiting = false
	m.from = io.MultiReader(bytes.NewReader(note(1, "c")), bytes.NewReader(other))
	n, err := m.Read(p)
	require.NoError(t, err)
	require.Equal(t, other, p[:n])
	require.Equal(t, 3, heard)
}
