package session

import "time"

// foreseenDelay is how long a row may wait to be read when its notification most
// probably tells nothing that matters.
const foreseenDelay = 100 * time.Millisecond

// foreseen sorts the notifications of jobs that this session has claimed. Their
// first one most probably says that the application has begun, and the one that follows the
// answer of the application, or a row that has ended, that it has ended. No slot depends on
// either, so these rows wait a little for each other; most are read by then for
// better reasons. Should one tell something else, it is heard that much later.
//
// The zero value foresees nothing.
type foreseen struct {
	stages map[string]stage
	// ended are the jobs of stageEnded, in the order of the time at which they are
	// forgotten.
	ended []endedJob
	// waiting are the jobs whose rows wait, since the time since.
	waiting backlog
	since   time.Time
}

// stage is how far a claimed job is, as far as notifications go.
type stage uint8

const (
	stageClaimed stage = iota + 1
	stageBegun
	stageEnded
)

type endedJob struct {
	uuid   string
	expiry time.Time
}

// claimed notes that a job has been claimed.
func (f *foreseen) claimed(uuid string) {
	if f.stages == nil {
		f.stages = make(map[string]stage)
	}
	f.stages[uuid] = stageClaimed
}

// end notes that the application has answered, or that the row has ended.
func (f *foreseen) end(uuid string, now time.Time) {
	if s, ok := f.stages[uuid]; ok && s != stageEnded {
		f.stages[uuid] = stageEnded
		f.ended = append(f.ended, endedJob{uuid, now.Add(foreseenDelay)})
	}
	for len(f.ended) > 0 && f.ended[0].expiry.Before(now) {
		if old := f.ended[0].uuid; f.stages[old] == stageEnded {
			delete(f.stages, old)
		}
		f.ended = f.ended[1:]
	}
}

// knows reports whether this session has claimed the job lately. What it changed by itself tells
// nothing then, unlike a job that a trigger of others adds to one of our statements.
func (f *foreseen) knows(uuid string) bool { return f.stages[uuid] != 0 }

// wait reports whether a notification was foreseen, and has its row wait then.
func (f *foreseen) wait(uuid string, now time.Time) bool {
	switch f.stages[uuid] {
	case stageClaimed:
		f.stages[uuid] = stageBegun
	case stageEnded:
		delete(f.stages, uuid)
	default:
		delete(f.stages, uuid)
		return false
	}
	if f.waiting.len() == 0 {
		f.since = now
	}
	f.waiting.add(uuid)
	return true
}

// read notes that a row is read now.
func (f *foreseen) read(uuid string) { f.waiting.drop(uuid) }

// due is when the rows that wait are to be read; zero if there are none.
func (f *foreseen) due() time.Time {
	if f.waiting.len() == 0 {
		return time.Time{}
	}
	return f.since.Add(foreseenDelay)
}

// take returns the jobs that wait if the first of them has waited long enough.
func (f *foreseen) take(now time.Time) []string {
	if f.waiting.len() == 0 || now.Before(f.due()) {
		return nil
	}
	return f.waiting.take(nil, f.waiting.len())
}
