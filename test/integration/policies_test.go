package integration

import (
	"testing"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// TestWindowsAndRates: what a policy holds back is explained, shown, and let go by a reload.
func TestWindowsAndRates(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.more = "policy root.night {\n\tcapacity 0 daily 00:00-24:00 UTC\n}\n" +
		"policy root.slow {\n\trate 1/d\n}\npolicy root.each {\n\trate 1/d burst 2 per database\n}\n"
	tb.run()
	tb.untilReady()
	for channel, why := range map[string]string{"root.night": "capacity_window", "root.slow": "rate", "root.each": "rate"} {
		uuid := tb.enqueue(tb.dbs[0], odoostub.JobSpec{Channel: &channel})[0]
		tb.untilWhy(tb.dbs[0], uuid, why)
	}
	for _, words := range []string{"window 0 daily 00:00-24:00 UTC", "rate 1/d", "databases that wait for a rate: 1",
		"root.slow: rate 1/d is used up, and the next job starts not before ", "root.each: the rates of databases are used up"} {
		tb.commands(0, words, "channels")
	}
	tb.untilStates(map[string]int{"pending": 3})
	tb.more = ""
	tb.load()
	tb.untilStates(map[string]int{"done": 3})
	tb.exactlyOnce(map[string]int{"root": 4})
}

// TestRootAuto: the capacity of root is what the servers bear, and a channel below has its part.
func TestRootAuto(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 2)
	tb.tree = none
	tb.more = "channel root auto\nchannel root.mail 50%\nserver {\n\tmax_jobs 2\n}\n"
	tb.run()
	tb.untilReady()
	mail := "root.mail"
	tb.enqueue(tb.dbs[0], repeat(6, odoostub.JobSpec{Channel: &mail, Behaviour: odoostub.Behaviour{Gate: "end"}})...)
	tb.untilRunning(2)
	tb.commands(0, "auto", "channels")
	tb.commands(0, "50%", "channels")
	tb.Gates.Open("end")
	tb.untilStates(map[string]int{"done": 6})
	tb.exactlyOnce(map[string]int{"root": 4, "root.mail": 2})
}
