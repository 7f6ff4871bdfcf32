package history

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFullFileSystem: on a file system without room, that is told, jobs go on being counted, the newest
// are in memory, and all is written when there is room again.
func TestFullFileSystem(t *testing.T) {
	dir := os.Getenv(childVariable)
	if dir == "" {
		// In namespaces of its own, also a user without rights may mount.
		cmd := child(t, t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) {
			t.Logf("this machine allows no namespaces, so only TestFullDisk shows it: %v", err)
			return
		}
		require.NoError(t, err, string(out))
		return
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); errors.Is(err, syscall.EPERM) {
		t.Logf("this machine allows no mount, so only TestFullDisk shows it: %v", err)
		return
	} else if err != nil {
		t.Fatal(err)
	}
	b := newBook(t, dir)
	all, fillers := uint64(0), 0
	filler := func() string { return fmt.Sprintf("%s/filler%d", dir, fillers) }
	step := func(i int) {
		b.at = start.Add(time.Duration(i) * Step)
		b.endsOfMany(i)
		all += 60
		b.save()
	}
	for i := range 5 {
		step(i)
	}
	require.Empty(t, b.ask(Query{}).Problem)
	for size := 64 << 10; size > 0; size /= 2 { // until not a byte more fits
		for os.WriteFile(filler(), make([]byte, size), 0o600) == nil {
			fillers++
		}
	}
	for i := 5; i < 15; i++ {
		step(i)
	}
	r := b.ask(Query{From: start, Step: Step})
	require.Contains(t, r.Problem, "no space left on device")
	require.Equal(t, all, r.Total.Attempts(), "from the file and from memory")
	require.Zero(t, r.Lost)
	require.Equal(t, 1, b.said.FilterMessageSnippet("cannot be written").Len(), "it is told once")

	for i := range fillers + 1 {
		_ = os.Remove(fmt.Sprintf("%s/filler%d", dir, i))
	}
	step(15)
	r = b.ask(Query{From: start, Step: Step})
	require.Empty(t, r.Problem)
	require.Equal(t, 1, b.said.FilterMessageSnippet("written again").Len())
	b.shut()
	again := newBook(t, dir)
	again.at = b.at
	require.Equal(t, all, again.ask(Query{From: start, Step: Step}).Total.Attempts(), "all of it is in the file")
}
