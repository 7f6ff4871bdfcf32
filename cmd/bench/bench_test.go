package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPercentile(t *testing.T) {
	values := []float64{5, 3, 1, 4, 2}
	require.Equal(t, 3.0, percentile(values, 50))
	require.Equal(t, 5.0, percentile(values, 99))
	require.Equal(t, 1.0, percentile(values, 0))
	require.Equal(t, 2.0, percentile([]float64{1, 2, 3, 4}, 50))
	require.Zero(t, percentile([]float64(nil), 50))
}

func TestReport(t *testing.T) {
	r := newReport()
	r.scenario = "drain"
	r.know("Go", "1")
	r.know("Go", "2")
	r.figure("ratio", "", 2, atLeast(0.85)).add(0.9)
	r.figure("ratio", "", 2, nil).add(0.8)
	r.figure("ratio", "", 2, nil).add(0.87)
	r.figure("processor", "s", 3, atMost(0.15)).add(0.2)
	r.figure("not measured", "", 0, atMost(1))
	require.Equal(t, 1, r.exitCode())
	r.fail("burst", errors.New("no | way\nat all"))
	require.Equal(t, 2, r.exitCode())
	var b strings.Builder
	require.NoError(t, r.print(&b))
	require.Equal(t, `Go: 1  

| scenario | what | median | range | runs | bound | |
|---|---|---|---|---|---|---|
| drain | ratio | 0.87 | 0.80 to 0.90 | 3 | at least 0.85 | met |
| drain | processor | 0.200 s |  | 1 | at most 0.15 s | **not met** |
| burst | could not be measured: no / way | | | | | **failed** |
`, b.String())
}

func TestRecords(t *testing.T) {
	r := &records{
		Requests:   []record{{UUID: "a", At: 100}, {UUID: "b", At: 400}, {UUID: "c", At: 500}},
		Executions: []record{{UUID: "a", At: 150, End: 300}, {UUID: "b", At: 450, End: 2e9 + 100}},
	}
	require.Equal(t, 2*time.Second, r.span())
	require.InDelta(t, 1.0, r.rate(), 1e-9)
	require.Zero(t, new(records).rate())
	require.Equal(t, int64(400), r.firstOf("b"))
	require.Equal(t, 300*time.Nanosecond, r.longestGap(time.Unix(0, 50), time.Unix(0, 450)))
	require.Equal(t, 500*time.Nanosecond, r.longestGap(time.Unix(0, 400), time.Unix(0, 1000)))
}

func TestLatenciesOfAWindow(t *testing.T) {
	began := time.Unix(100, 0)
	o := &offered{began: began, jobs: []sentJob{{began, 1}, {began.Add(time.Second), 2}, {began.Add(2 * time.Second), 3}}}
	require.Equal(t, []time.Duration{2}, o.latencies(time.Second, 2*time.Second))
}

func TestPlotIsXML(t *testing.T) {
	for _, points := range [][]point{nil, {{Load: 0.1, Offered: 90, Done: 90, P50: 0.5, P99: 2}, {Load: 0.9, Offered: 810, Done: 805, P50: 3, P99: 80}}} {
		d := xml.NewDecoder(strings.NewReader(drawPlot(points)))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
		}
	}
}

func TestProcessTime(t *testing.T) {
	for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); {
	}
	used, err := processTime(os.Getpid())
	require.NoError(t, err)
	require.Positive(t, used)
	_, err = processTime(0)
	require.Error(t, err)
}

func TestChoose(t *testing.T) {
	all, err := choose(nil)
	require.NoError(t, err)
	require.Len(t, all, len(scenarios))
	some, err := choose([]string{"idle", "drain"})
	require.NoError(t, err)
	require.Equal(t, "idle", some[0].name)
	require.Len(t, some, 2)
	_, err = choose([]string{"none"})
	require.ErrorContains(t, err, "there are drain, ")
}

func TestStolen(t *testing.T) {
	before := times{100, 0, 50, 1000, 10, 0, 0, 20, 0, 0}
	share, ok := times{150, 0, 80, 5000, 10, 0, 0, 40, 0, 0}.stolenSince(before)
	require.True(t, ok)
	require.InDelta(t, 0.2, share, 1e-9)
	for _, none := range []times{nil, before} {
		_, ok = none.stolenSince(before)
		require.False(t, ok)
	}
	require.NotEmpty(t, cpuTimes())
}
