package runner

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The whole table: what each step makes of each stage.
func TestStageTransitions(t *testing.T) {
	t.Parallel()
	const (
		con, fai, und, neu, unh = stageConnecting, stageUnreachable, stageUndetected, stageNeutralized, stageUnhealthy
		sta, loa, ser, yie, wai = stageStandby, stageLoading, stageServed, stageYielding, stageWaiting
		asl                     = stageAsleep
	)
	from := []stage{con, fai, und, neu, unh, sta, loa, ser, wai, asl, yie}
	for what, to := range map[step][]stage{
		stepConnect:     {con, fai, und, neu, unh, sta, con, con, con, asl, yie},
		stepChange:      {con, fai, und, neu, unh, sta, con, con, con, asl, yie},
		stepWait:        {wai, wai, und, neu, unh, sta, loa, ser, wai, asl, yie},
		stepSettle:      {con, con, con, con, con, con, con, con, con, con, yie},
		stepFail:        {fai, fai, fai, fai, fai, fai, fai, fai, fai, fai, yie},
		stepUndetected:  {und, und, und, und, und, und, und, und, und, und, yie},
		stepNeutralized: {neu, neu, neu, neu, neu, neu, neu, neu, neu, neu, yie},
		stepUnhealthy:   {unh, unh, unh, unh, unh, unh, unh, unh, unh, unh, yie},
		stepStandby:     {sta, sta, sta, sta, sta, sta, sta, sta, sta, sta, yie},
		stepLoad:        {loa, loa, loa, loa, loa, loa, loa, ser, loa, loa, yie},
		stepLoaded:      {ser, ser, ser, ser, ser, ser, ser, ser, ser, ser, yie},
		stepLeave:       {wai, wai, wai, wai, wai, wai, wai, wai, wai, wai, yie},
		stepSleep:       {asl, asl, asl, asl, asl, asl, asl, asl, asl, asl, yie},
		stepWake:        {con, fai, und, neu, unh, sta, loa, ser, wai, con, yie},
		stepYield:       {yie, yie, yie, yie, yie, yie, yie, yie, yie, yie, yie},
		stepReturn:      {con, fai, und, neu, unh, sta, loa, ser, wai, asl, con},
	} {
		for i, s := range from {
			require.Equal(t, stageStates[to[i]].String(), stageStates[s.after(what)].String(),
				"step %d from %s", what, stageStates[s])
		}
	}
	for _, s := range from {
		require.Equal(t, s == ser, s.known(), "%s", stageStates[s])
		require.Equal(t, s != ser && s != und && s != neu && s != yie, s.mayTell(), "%s", stageStates[s])
	}
}
