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
		sta, loa, ser, yie      = stageStandby, stageLoading, stageServed, stageYielding
	)
	from := []stage{con, fai, und, neu, unh, sta, loa, ser, yie}
	for what, to := range map[step][]stage{
		stepConnect:     {con, fai, und, neu, unh, sta, con, con, yie},
		stepChange:      {con, fai, und, neu, unh, sta, con, con, yie},
		stepSettle:      {con, con, con, con, con, con, con, con, yie},
		stepFail:        {fai, fai, fai, fai, fai, fai, fai, fai, yie},
		stepUndetected:  {und, und, und, und, und, und, und, und, yie},
		stepNeutralized: {neu, neu, neu, neu, neu, neu, neu, neu, yie},
		stepUnhealthy:   {unh, unh, unh, unh, unh, unh, unh, unh, yie},
		stepStandby:     {sta, sta, sta, sta, sta, sta, sta, sta, yie},
		stepLoad:        {loa, loa, loa, loa, loa, loa, loa, ser, yie},
		stepLoaded:      {ser, ser, ser, ser, ser, ser, ser, ser, yie},
		stepYield:       {yie, yie, yie, yie, yie, yie, yie, yie, yie},
		stepReturn:      {con, fai, und, neu, unh, sta, loa, ser, con},
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
