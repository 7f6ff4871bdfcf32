package session

import (
	"runtime"
	"runtime/metrics"
)

// garbageLimit is how much the process may have allocated since the last collection while a snapshot
// is read, and garbageShare the part of what is in use that is always allowed, so that a collection
// is worth its cost.
const (
	garbageLimit = 24 << 20
	garbageShare = 4
)

// collectGarbage keeps the heap small while a snapshot is read. By itself, Go lets it grow to twice
// what was in use at the last collection, and of what a million rows bring, all stays in use: the
// memory of the process would be that of two million, and it is given back late.
func collectGarbage() {
	samples := [...]metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(samples[:])
	used, now := samples[0].Value.Uint64(), samples[1].Value.Uint64()
	if now > used+max(garbageLimit, used/garbageShare) {
		runtime.GC()
	}
}
