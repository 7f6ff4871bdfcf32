package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	// Step is the length of the shortest intervals, and FineKeep for how long they are kept.
	Step     = 5 * time.Minute
	FineKeep = 48 * time.Hour
	// LongStep is the length of the others.
	LongStep = time.Hour
	// sizeLimit bounds what the file holds, in bytes. When it is reached, the oldest hours go.
	sizeLimit = 256 << 20
	// trimLimit bounds the blocks that one write removes for their age, so that a clock that is wrong for
	// a while costs little, and trimMuch those that it removes for the size of the file.
	trimLimit = 6
	trimMuch  = 24
	// lockTimeout bounds the wait for another process, or another runner of this one, to let go.
	lockTimeout = time.Second
	// format is the version of what is in the buckets.
	format = 1
)

// The buckets, and the key of the version.
var (
	metaBucket   = []byte("meta")
	fineBucket   = []byte("5m")
	coarseBucket = []byte("1h")
	formatKey    = []byte("format")
)

var (
	// errCorrupt is what a file is that cannot be read.
	errCorrupt = errors.New("the file is damaged")
	// errNewer is a file that a newer version has written.
	errNewer = errors.New("a newer version of this module has written the file")
)

// store is the file of one runner. Its methods may be called by several goroutines.
type store struct {
	db    *bolt.DB
	limit int64
}

// openStore opens the file, and makes it if there is none.
func openStore(path string) (*store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("the directory of the history: %w", err)
	}
	s := &store{limit: sizeLimit}
	err := safely(func() (err error) {
		s.db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, FreelistType: bolt.FreelistMapType})
		if err != nil {
			return err //nolint:wrapcheck // wrapped below
		}
		return s.prepare()
	})
	switch {
	case err == nil:
		return s, nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("opening %s: another process has it open", path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		err = fmt.Errorf("%w: %w", errCorrupt, err)
	}
	if s.db != nil {
		s.close()
	}
	return nil, fmt.Errorf("opening %s: %w", path, err)
}

// prepare makes the buckets, and reads all keys, so that a file that cannot be read is found at once.
func (s *store) prepare() error {
	return s.db.Update(func(tx *bolt.Tx) error { //nolint:wrapcheck // wrapped by the caller
		for _, name := range [][]byte{metaBucket, fineBucket, coarseBucket, recordBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err //nolint:wrapcheck // wrapped by the caller
			}
		}
		meta := tx.Bucket(metaBucket)
		switch raw := string(meta.Get(formatKey)); raw {
		case "":
			if err := meta.Put(formatKey, []byte(strconv.Itoa(format))); err != nil {
				return err //nolint:wrapcheck // wrapped by the caller
			}
		default:
			switch n, err := strconv.Atoi(raw); {
			case err != nil, n < format:
				return fmt.Errorf("%w: format %q", errCorrupt, raw)
			case n > format:
				return fmt.Errorf("%w: format %s", errNewer, raw)
			}
		}
		for _, name := range [][]byte{fineBucket, coarseBucket, recordBucket} {
			err := tx.Bucket(name).ForEach(func(key, _ []byte) error {
				if len(key) != keySize {
					return fmt.Errorf("%w: a key of %d bytes", errCorrupt, len(key))
				}
				return nil
			})
			if err != nil {
				return err //nolint:wrapcheck // wrapped by the caller
			}
		}
		return nil
	})
}

// close gives the file back. It does not fail in a way that would matter: what was written is on disk.
func (s *store) close() { _ = safely(s.db.Close) }

// safely calls what reads the file. It is mapped into memory, so that what is wrong with it, or with
// the disk, may show as a fault of an address, or as a panic of the library.
func safely(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errCorrupt, r)
		}
	}()
	return f()
}

const keySize = 8

// keyOf is the key of an interval: those of later ones are greater.
func keyOf(begin time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(begin.Unix())^1<<63) //nolint:gosec // the sign is flipped, so that it sorts
}

// beginOf is when the interval of a key begins.
func beginOf(key []byte) time.Time {
	return time.Unix(int64(binary.BigEndian.Uint64(key)^1<<63), 0).UTC() //nolint:gosec // the opposite of keyOf
}

// write adds an interval to what the file has, and removes what is too old or too much.
func (s *store) write(iv *interval, keep time.Duration, now time.Time) error {
	return safely(func() error {
		used := s.used()
		return s.db.Update(func(tx *bolt.Tx) error { //nolint:wrapcheck // its own errors are wrapped
			for bucket, length := range map[string]time.Duration{string(fineBucket): Step, string(coarseBucket): LongStep} {
				if err := mergeInto(tx.Bucket([]byte(bucket)), iv.begin().Truncate(length), iv.table); err != nil {
					return fmt.Errorf("writing the history: %w", err)
				}
			}
			if err := iv.record(tx.Bucket(recordBucket), now); err != nil {
				return err
			}
			fine, coarse := tx.Bucket(fineBucket), tx.Bucket(coarseBucket)
			err := errors.Join(drop(fine, now.Add(-FineKeep), trimLimit), drop(coarse, now.Add(-keep), trimLimit))
			if used > s.limit {
				err = errors.Join(err, drop(coarse, now, trimMuch))
			}
			if err != nil {
				return fmt.Errorf("removing old history: %w", err)
			}
			return nil
		})
	})
}

// used is how many bytes of the file hold something. The file itself never shrinks.
func (s *store) used() int64 {
	size := int64(0)
	_ = s.db.View(func(tx *bolt.Tx) error { size = tx.Size(); return nil })
	st := s.db.Stats()
	return size - int64(st.FreePageN+st.PendingPageN)*int64(s.db.Info().PageSize)
}

// mergeInto adds a table to the block of an interval. A block that cannot be read is replaced.
func mergeInto(b *bolt.Bucket, begin time.Time, t *table) error {
	key := keyOf(begin)
	if old := b.Get(key); old != nil {
		sum := newTable()
		folded, _ := sum.take(old)
		sum.attempts = folded
		sum.merge(t)
		t = sum
	}
	block, err := t.encode()
	if err != nil {
		return err
	}
	return b.Put(key, block) //nolint:wrapcheck // wrapped by the caller
}

// drop removes the oldest blocks of a bucket that begin before a time, at most so many.
func drop(b *bolt.Bucket, before time.Time, most int) error {
	c := b.Cursor()
	for key, _ := c.First(); key != nil && most > 0 && beginOf(key).Before(before); key, _ = c.First() {
		if err := c.Delete(); err != nil {
			return err //nolint:wrapcheck // wrapped by the caller
		}
		most--
	}
	return nil
}

// scan hands on the blocks of the intervals that begin at a time or later, and before another one. They
// are valid only until see returns.
func (s *store) scan(bucket []byte, from, to time.Time, see func(begin time.Time, block []byte) error) error {
	return safely(func() error {
		return s.db.View(func(tx *bolt.Tx) error { //nolint:wrapcheck // see's own errors
			c := tx.Bucket(bucket).Cursor()
			for key, block := c.Seek(keyOf(from)); key != nil && beginOf(key).Before(to); key, block = c.Next() {
				if err := see(beginOf(key), block); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// first is when the oldest interval begins; zero if there is none.
func (s *store) first() (begin time.Time) {
	_ = safely(func() error {
		return s.db.View(func(tx *bolt.Tx) error { //nolint:wrapcheck // it has none
			for _, name := range [][]byte{fineBucket, coarseBucket} {
				if key, _ := tx.Bucket(name).Cursor().First(); key != nil && (begin.IsZero() || beginOf(key).Before(begin)) {
					begin = beginOf(key)
				}
			}
			return nil
		})
	})
	return begin
}
