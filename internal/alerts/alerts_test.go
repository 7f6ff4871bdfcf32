package alerts

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// TestObjectivesAreNotGathered: what is told of an objective is not lost in what is told of another one.
func TestObjectivesAreNotGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var all []string
		a := alerter{groups: make(map[alertKey]*alertGroup), emit: func(groups []alertGroup, _ int) {
			mu.Lock()
			defer mu.Unlock()
			for _, g := range groups {
				all = append(all, g.last.Detail)
			}
		}}
		for _, policy := range []string{"mail", "stock"} {
			a.publish(runner.Event{Kind: runner.EventObjectiveBurns, Runner: "default", Policy: policy, Detail: "policy root." + policy + ": 50% of the jobs"})
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, []string{"policy root.mail: 50% of the jobs", "policy root.stock: 50% of the jobs"}, all)
	})
}

// TestAlertsAreGathered: the first of many is told at once, the rest as one.
func TestAlertsAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var all []alertGroup
		a := alerter{groups: make(map[alertKey]*alertGroup), emit: func(groups []alertGroup, _ int) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, groups...)
		}}
		told := func() []alertGroup {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(all)
		}
		failed := func(uuid string) runner.Event {
			return runner.Event{Kind: runner.EventJobFailed, Database: "prod", Channel: "root.mail", UUID: uuid}
		}
		for i := range 100 {
			a.publish(failed(fmt.Sprint(i)))
		}
		a.publish(runner.Event{Kind: runner.EventJobDone})
		require.Len(t, told(), 1)
		require.Equal(t, 1, told()[0].data()["count"])
		<-time.After(alertWindow + time.Second) // the bubble's time
		require.Len(t, told(), 2)
		require.Equal(t, 99, told()[1].data()["count"])
		require.Equal(t, "99", told()[1].data()["uuid"])
		<-time.After(2 * alertWindow)
		require.Len(t, told(), 2)
		a.mu.Lock()
		defer a.mu.Unlock()
		require.Empty(t, a.groups)
	})
}
