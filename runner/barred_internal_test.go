package runner

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// A pause may end when the session has found nothing else to do, and has not said so yet: then it does
// not carry orders out any more.
func TestUnbarredBeforeItSleeps(t *testing.T) {
	t.Parallel()
	for _, ends := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			e := dozing(began, began, "prod")
			defer e.stopSession(e.databases.get("prod"))
			db := e.databases.get("prod")
			delete(e.rotation.asleep, db)
			db.stage = stageServed
			e.databases.served[db] = struct{}{}
			e.put("root.a", time.Unix(0, 0), channels.Pending)
			e.control(Controls{Pauses: []Pause{{Channel: "root.a"}}})
			db.barred = barred{uuids: []string{"root.a"}, opens: never}
			if ends {
				e.control(Controls{})
			}
			e.asleep(db, driver.Rest{})
			require.Equal(t, ends, len(awakeNow(e, "prod")) == 1)
		})
	}
}
