package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

const (
	// downloadVariable set to 1 ignores the binaries of this machine.
	downloadVariable = "JOBRUNNER_PG_DOWNLOAD"
	// cacheVariable names the folder for downloaded binaries.
	cacheVariable = "JOBRUNNER_PG_CACHE"
	// versionVariable is the major version that is wanted, such as 17 or 9.6. It is
	// downloaded where the machine does not have it.
	versionVariable = "JOBRUNNER_PG_VERSION"

	downloadVersion = embeddedpostgres.V17
)

// versions are those that can be downloaded, by their major version.
var versions = map[int]embeddedpostgres.PostgresVersion{
	9: embeddedpostgres.V9, 10: embeddedpostgres.V10, 11: embeddedpostgres.V11, 12: embeddedpostgres.V12,
	14: embeddedpostgres.V14, 15: embeddedpostgres.V15, 16: embeddedpostgres.V16, 17: embeddedpostgres.V17, 18: embeddedpostgres.V18,
}

// binaries returns the folder of postgres and initdb. tell, if not nil, is told of a download.
func binaries(ctx context.Context, download bool, tell func(what, folder string)) (string, error) {
	wanted, version := 0, downloadVersion
	if v := os.Getenv(versionVariable); v != "" {
		major, _, _ := strings.Cut(v, ".")
		wanted, _ = strconv.Atoi(major) // 0 is none of them
		version = versions[wanted]
		if !strings.HasPrefix(string(version)+".", v+".") {
			known := slices.Sorted(maps.Keys(versions))
			return "", fmt.Errorf("%s: %s is none of the versions %v", versionVariable, v, known)
		}
	}
	if !download {
		if dir := installed(ctx, wanted); dir != "" {
			return dir, nil
		}
	}
	return downloaded(ctx, version, tell)
}

// installed returns the folder of the binaries that this machine has, or "". A
// wanted major version of 0 is any.
func installed(ctx context.Context, wanted int) string {
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		// Often a link; the other programs are where it points to.
		if target, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(target))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
	} {
		found, _ := filepath.Glob(pattern) // errors only on a bad pattern
		slices.SortFunc(found, func(a, b string) int { return majorVersion(b) - majorVersion(a) })
		dirs = append(dirs, found...)
	}
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, dir := range dirs {
		if complete(dir) && (wanted == 0 || majorVersion(dir) == wanted) {
			return dir
		}
	}
	return ""
}

// majorVersion reads the number in the folder above bin.
func majorVersion(bin string) int {
	name := filepath.Base(filepath.Dir(bin))
	n, _ := strconv.Atoi(name[strings.LastIndexAny(name, "@-")+1:]) // 0 sorts last
	return n
}

func complete(bin string) bool {
	for _, program := range []string{"postgres", "initdb"} {
		if _, err := exec.LookPath(filepath.Join(bin, program)); err != nil {
			return false
		}
	}
	return true
}

// downloaded returns the folder of binaries in the cache, which it fills first
// when it is empty.
func downloaded(ctx context.Context, version embeddedpostgres.PostgresVersion, tell func(what, folder string)) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	root := filepath.Join(cache, fmt.Sprintf("postgresql-%s-%s-%s", version, runtime.GOOS, runtime.GOARCH))
	bin := filepath.Join(root, "bin")
	if complete(bin) {
		return bin, nil
	}
	unlock, err := lockCache(cache)
	if err != nil {
		return "", err
	}
	defer unlock()
	if complete(bin) { // somebody else was faster
		return bin, nil
	}
	tmp, err := os.MkdirTemp(cache, "extract-")
	if err != nil {
		return "", fmt.Errorf("making a folder in %s: %w", cache, err)
	}
	defer os.RemoveAll(tmp) // best effort: only a leftover of a failed download
	extracted := filepath.Join(tmp, "postgresql")
	if tell != nil {
		tell("PostgreSQL "+string(version), cache)
	}
	if err := fetch(ctx, version, cache, tmp, extracted); err != nil {
		return "", err
	}
	if err := os.Rename(extracted, root); err != nil {
		return "", fmt.Errorf("moving the binaries into place: %w", err)
	}
	return bin, nil
}

// fetch downloads a version (archives are kept in cache) and extracts the binaries. The
// library offers that only as the first half of a start. The second half fails
// when running as root, which does not matter here.
func fetch(ctx context.Context, version embeddedpostgres.PostgresVersion, cache, tmp, extracted string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	db := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(version).
		CachePath(cache).
		RuntimePath(filepath.Join(tmp, "run")).
		BinariesPath(extracted).
		Port(uint32(port)). //nolint:gosec // a port fits
		Logger(io.Discard))
	done := make(chan error, 1)
	go func() {
		defer http.DefaultClient.CloseIdleConnections() // the library's
		startErr := db.Start()
		if startErr == nil {
			startErr = db.Stop()
		}
		done <- startErr
	}()
	select {
	case err = <-done:
	case <-ctx.Done(): // the library's download cannot be cancelled; it ends by itself
		return fmt.Errorf("downloading postgresql %s: %w", version, ctx.Err())
	}
	if !complete(filepath.Join(extracted, "bin")) {
		return fmt.Errorf("downloading postgresql %s: %w", version, errors.Join(err, errors.New("no binaries in the archive")))
	}
	return nil
}

// cacheDir returns the folder for downloaded binaries. That of root is closed to
// the user that the server runs as, so root gets another one.
func cacheDir() (string, error) {
	dir := os.Getenv(cacheVariable)
	if dir == "" && os.Geteuid() == 0 {
		dir = "/var/cache/caddy-jobrunner"
	}
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("finding the cache folder: %w", err)
		}
		dir = filepath.Join(base, "caddy-jobrunner")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the cache folder: %w", err)
	}
	return dir, nil
}

// lockCache keeps the test binaries that run at the same time from downloading
// the same archive.
func lockCache(cache string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the cache folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking the cache folder: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing unlocks
}
