package odoo

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Both ways to read a timestamp agree on every one that can be sent.
func TestWireMicros(t *testing.T) {
	types := pgtype.NewMap()
	check := func(t require.TestingT, sent int64) {
		var want pgtype.Timestamp
		value := binary.BigEndian.AppendUint64(nil, uint64(sent))
		require.NoError(t, types.Scan(pgtype.TimestampOID, pgtype.BinaryFormatCode, value, &want))
		require.Equal(t, micros(want), wireMicros(value), "%d", sent)
	}
	require.Zero(t, wireMicros(nil))
	const first = -211_813_488_000_000_000 // 4714-11-24 BC, PostgreSQL's first
	const last = 9_223_371_331_199_999_999 // the end of 294276
	const limit = (lastSecond+1)*1_000_000 - millennium
	for _, sent := range []int64{
		math.MinInt64, first, -millennium, -1, 0, 1, limit - 1, limit, limit + 1, last, math.MaxInt64,
	} {
		check(t, sent)
	}
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.Int64Range(first, last).Draw(t, "sent")) })
}

// Every uuid that comes twice is found, and hardly any other.
func TestDoubles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(0, 5_000).Draw(t, "uuids")
		twice := rapid.SliceOfDistinct(rapid.IntRange(0, max(count-1, 0)), rapid.ID[int]).Draw(t, "twice")
		d := doubles{seed: maphash.MakeSeed()}
		var want []string
		for i := range count {
			d.add(fmt.Sprint(i))
		}
		for _, i := range twice {
			d.add(fmt.Sprint(i))
			if i < count {
				want = append(want, fmt.Sprint(i))
			}
		}
		if count == 0 {
			want = nil
		}
		again := d.end()
		alike := len(again) - len(want) // by chance, one of 2^31 for each pair
		require.LessOrEqual(t, alike, 2)
		require.Subset(t, again, want)
		require.Equal(t, max(count, len(twice)-len(want)), d.seen.count+alike)
	})
}

func TestBlock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b block
		var got []string
		want := rapid.SliceOf(rapid.StringN(0, 3_000, -1)).Draw(t, "texts")
		for _, text := range want {
			got = append(got, b.add([]byte(text)))
		}
		for i := range want {
			require.Equal(t, want[i], got[i])
		}
	})
}

// TestInternedIsBounded: a table in which each row names another channel costs no memory for that.
func TestInternedIsBounded(t *testing.T) {
	t.Parallel()
	var texts interned
	for i := range 3 * internedLimit {
		text := fmt.Sprint(i)
		require.Equal(t, text, texts.get([]byte(text)))
		require.Equal(t, text, texts.get([]byte(text)))
		require.Equal(t, "0", texts.get([]byte("0")))
	}
	require.Len(t, texts.all, internedLimit)
}

// Times that are too far to be counted are the farthest one, and an eta that has always been over is none.
func TestMicros(t *testing.T) {
	t.Parallel()
	const last = math.MaxInt64 / 1_000_000
	at := func(second, nanos int64) pgtype.Timestamp {
		return pgtype.Timestamp{Time: time.Unix(second, nanos), Valid: true}
	}
	never := pgtype.Timestamp{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	for want, c := range map[int64]pgtype.Timestamp{
		0:                            {},
		1_700_000_000_000_001:        at(1_700_000_000, 1000),
		(last-1)*1_000_000 + 999_999: at(last-1, 999_999_999),
		math.MinInt64:                never,
	} {
		require.Equal(t, want, micros(c))
		if c != never {
			require.Equal(t, want, etaMicros(c))
		}
	}
	require.Zero(t, etaMicros(never))
	for _, far := range []pgtype.Timestamp{at(last, 0), at(last+1, 0), {InfinityModifier: pgtype.Infinity, Valid: true}} {
		require.EqualValues(t, math.MaxInt64, micros(far))
		require.EqualValues(t, math.MaxInt64, etaMicros(far))
	}
}
