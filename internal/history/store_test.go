package history

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// newStore opens a file of its own, which is not synced.
func newStore(t *testing.T) *store {
	t.Helper()
	s, err := openStore(filepath.Join(t.TempDir(), fileName))
	require.NoError(t, err)
	t.Cleanup(s.close)
	s.db.NoSync = true
	return s
}

// TestFormats: a file of this format is opened, one of a newer version is known as such, and whatever else
// it says, or has as a key, it is damaged.
func TestFormats(t *testing.T) {
	for name, c := range map[string]struct {
		bucket     []byte
		key, value string
		want       error
	}{
		"this one":         {metaBucket, string(formatKey), "1", nil},
		"the next one":     {metaBucket, string(formatKey), "2", errNewer},
		"none before":      {metaBucket, string(formatKey), "0", errCorrupt},
		"no number":        {metaBucket, string(formatKey), "one", errCorrupt},
		"a key":            {recordBucket, "12345678", "", nil},
		"a short key":      {recordBucket, "1234567", "", errCorrupt},
		"a long key":       {coarseBucket, "123456789", "", errCorrupt},
		"another bucket's": {fineBucket, "1", "", errCorrupt},
	} {
		path := filepath.Join(t.TempDir(), fileName)
		s, err := openStore(path)
		require.NoError(t, err)
		s.close()
		change(t, path, func(tx *bolt.Tx) error { return tx.Bucket(c.bucket).Put([]byte(c.key), []byte(c.value)) })
		s, err = openStore(path)
		require.ErrorIs(t, err, c.want, name)
		if err == nil {
			s.close()
		}
	}
}

// TestUsed: what is free in a file, now or after the next change, is not used.
func TestUsed(t *testing.T) {
	s := newStore(t)
	empty := s.used()
	require.Positive(t, empty)
	const large = 1 << 20
	do := func(f func(b *bolt.Bucket) error) {
		require.NoError(t, s.db.Update(func(tx *bolt.Tx) error { return f(tx.Bucket(fineBucket)) }))
	}
	do(func(b *bolt.Bucket) error { return b.Put(keyOf(start), make([]byte, large)) })
	require.Greater(t, s.used(), int64(large))
	for range 3 {
		do(func(b *bolt.Bucket) error { return b.Delete(keyOf(start)) })
		require.Less(t, s.used(), empty+large/4)
	}
}

// TestFullFile: hours go when what is used is more than the limit, and not when it is just that.
func TestFullFile(t *testing.T) {
	b := newBook(t, t.TempDir())
	for range 3 {
		b.ends(1, Done, mail)
		b.save()
		b.at = b.at.Add(LongStep)
	}
	hours := func() (n int) {
		require.NoError(t, b.file.store.db.View(func(tx *bolt.Tx) error { n = tx.Bucket(coarseBucket).Stats().KeyN; return nil }))
		return n
	}
	b.ends(1, Done, mail)
	b.file.store.limit = b.file.store.used()
	b.save()
	require.Equal(t, 4, hours())
	b.file.store.limit = b.file.store.used() - 1
	b.ends(1, Done, mail)
	b.save()
	require.Equal(t, 1, hours(), "that which has just begun")
}
