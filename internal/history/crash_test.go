//go:build unix

package history

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// childVariable names the directory in which a child of a test writes, and fullVariable the size that
	// no file of its may exceed.
	childVariable = "HISTORY_TEST_CHILD"
	fullVariable  = "HISTORY_TEST_FULL"
)

// child starts this test in a process of its own, which writes in a directory.
func child(t *testing.T, dir string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(append(os.Environ(), childVariable+"="+dir), env...)
	return cmd
}

// TestKilled: a process that is killed while it writes has lost no interval that it had written, and the
// next one goes on with the same file.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(childVariable); dir != "" {
		b := newBook(t, dir)
		for i := 0; ; i++ {
			b.at = start.Add(time.Duration(i) * Step)
			b.ends(1, Done, Series{"prod", "root", "m", fmt.Sprint(i % 50)})
			b.save()
			fmt.Fprintf(os.Stdout, "written %d\n", i)
		}
	}
	dir := t.TempDir()
	for round := range 3 {
		cmd := child(t, dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		last := -1
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if text, ok := strings.CutPrefix(lines.Text(), "written "); ok {
				last, err = strconv.Atoi(text)
				require.NoError(t, err)
			}
			if last == 20+round {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		require.Error(t, cmd.Wait(), "it was killed")
		require.GreaterOrEqual(t, last, 20+round)

		b := newBook(t, dir)
		b.at = start.Add(time.Duration(last+1) * Step)
		r := b.ask(Query{From: start, Step: Step})
		for i := range last + 1 {
			require.Positive(t, r.Points[i].Attempts(), "interval %d of %d, round %d", i, last, round)
		}
		require.Zero(t, r.Unreadable)
		require.Zero(t, b.said.Len())
		b.shut()
	}
}

// endsOfMany notes the ends of sixty attempts with names of their own, which take room in the file.
func (b *book) endsOfMany(i int) {
	for j := range 60 {
		b.ends(1, Done, Series{"prod", "root", "m", fmt.Sprintf("%d-%d-%x", i, j, i*j*2654435761)})
	}
}

// TestFullDisk: where the file cannot grow, that is told, what happens is kept in memory, and what was
// written before stays; nothing ends the process.
func TestFullDisk(t *testing.T) {
	dir := os.Getenv(childVariable)
	if dir == "" {
		dir = t.TempDir()
		out, err := child(t, dir, fullVariable+"="+strconv.Itoa(256<<10)).CombinedOutput()
		require.NoError(t, err, string(out))
		b := newBook(t, dir)
		b.at = start.Add(400 * Step)
		r := b.ask(Query{From: start, Step: LongStep})
		require.Greater(t, r.Total.Attempts(), uint64(10), "what was written before")
		require.Zero(t, r.Unreadable)
		b.ends(1, Done, mail)
		b.save()
		require.Zero(t, b.said.Len(), "there is room again")
		return
	}
	most, err := strconv.ParseUint(os.Getenv(fullVariable), 10, 64)
	require.NoError(t, err)
	signal.Ignore(syscall.SIGXFSZ) // as a disk does not send any
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: most, Max: most}))
	b := newBook(t, dir)
	for i := range 300 {
		b.at = start.Add(time.Duration(i) * Step)
		b.endsOfMany(i)
		b.save()
	}
	// Now and then a page becomes free and a write succeeds, so that the next failure is told again.
	said := b.said.FilterMessageSnippet("cannot be written").Len()
	require.Positive(t, said)
	require.Less(t, said, 10, "of 300 intervals")
	r := b.ask(Query{From: b.at.Add(-30 * time.Minute), Step: Step})
	require.EqualValues(t, 7*60, r.Total.Attempts(), "the last hour is in memory")
	require.NotEmpty(t, r.Problem)
	require.Positive(t, r.Lost)
}
