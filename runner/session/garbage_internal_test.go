package session

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGarbageIsBounded: while much is in use, Go would let as much again be garbage.
func TestGarbageIsBounded(t *testing.T) {
	const chunk, slack = 1 << 20, 8 << 20
	kept := make([][]byte, 64)
	for i := range kept {
		kept[i] = make([]byte, chunk)
	}
	runtime.GC()
	used := inUse()
	var last []byte
	for range 2 * garbageLimit / chunk {
		last = make([]byte, chunk)
		collectGarbage()
		require.Less(t, inUse(), used+garbageLimit+slack)
	}
	runtime.KeepAlive(last)
	runtime.KeepAlive(kept)
}

// TestGarbageIsLeftAlone: a collection that would bring nothing is none.
func TestGarbageIsLeftAlone(t *testing.T) {
	kept := make([]byte, 2*garbageLimit)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20 {
		collectGarbage()
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.NumGC-before.NumGC, uint32(5))
	runtime.KeepAlive(kept)
}

func inUse() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
