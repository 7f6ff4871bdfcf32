package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/require"
)

func TestReport(t *testing.T) {
	r := newReport()
	r.scenario = "drain"
	r.know("Go", "1")
	r.know("Go", "2")
	r.add("ratio", "", 2, atLeast(0.85), 0.9)
	r.add("ratio", "", 2, nil, 0.8)
	r.add("ratio", "", 2, nil, 0.87)
	r.add("processor", "s", 3, atMost(0.15), 0.2)
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
	at := func(d time.Duration) time.Time { return time.Unix(0, int64(d)) }
	r := &Records{
		Requests:   []request{{"a", at(100)}, {"b", at(400)}, {"c", at(500)}},
		Executions: []execution{{"a", at(300)}, {"b", at(2*time.Second + 100)}},
	}
	require.InDelta(t, 1.0, r.rate(), 1e-9)
	require.Zero(t, new(Records).rate())
	require.Equal(t, 300*time.Nanosecond, r.longestGap(at(50), at(450)))
	require.Equal(t, 500*time.Nanosecond, r.longestGap(at(400), at(1000)))
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
	before := procfs.CPUStat{User: 100, System: 50, Idle: 1000, Iowait: 10, Steal: 20}
	share, ok := stolen(before, procfs.CPUStat{User: 150, System: 80, Idle: 5000, Iowait: 10, Steal: 40})
	require.True(t, ok)
	require.InDelta(t, 0.2, share, 1e-9)
	_, ok = stolen(before, before)
	require.False(t, ok)
	require.NotZero(t, cpuTimes())
}

func TestExponent(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		want float64
	}{{[]float64{7, 7, 7}, 0}, {[]float64{1, 10, 100}, 1}, {[]float64{100, 10, 1}, -1}, {[]float64{1, 100, 10_000}, 2}} {
		require.InDelta(t, c.want, exponent([]int{100, 1_000, 10_000}, c.v), 1e-9)
	}
	require.False(t, math.IsNaN(exponent([]int{1, 10, 100}, []float64{0, 1, 2})), "nothing at all")
}

// The table says which version was measured, and what is wrong with a folder that is no add-on.
func TestVersionOfOCA(t *testing.T) {
	folder := t.TempDir()
	_, err := ocaVersion(folder)
	require.ErrorIs(t, err, os.ErrNotExist)
	for content, want := range map[string]string{
		`{"version": "19.0.2.4.0", "x": 1}`: "19.0.2.4.0",
		`{"x": 1}`:                          "",
		`{"version": "19.0`:                 "",
		`{"version": "` + strings.Repeat("1", 33) + `", "x": 1}`: "",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, "__manifest__.py"), []byte(content), 0o600))
		got, err := ocaVersion(folder)
		require.Equal(t, want, got)
		require.Equal(t, want == "", err != nil)
	}
}

func TestTail(t *testing.T) {
	var said tail
	for range 3 {
		n, err := said.Write([]byte(strings.Repeat("a", tailSize-1)))
		require.NoError(t, err)
		require.Equal(t, tailSize-1, n)
	}
	_, _ = said.Write([]byte("z"))
	require.Len(t, said.String(), tailSize)
	require.True(t, strings.HasSuffix(said.String(), "az"))
}
