package docs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// root is the repository's root, seen from this package.
const root = "../.."

// A file is a text file of the repository.
type file struct {
	path string // from the root, with slashes
	text string
}

// at names the line of an offset, for messages.
func (f file) at(offset int) string {
	return fmt.Sprintf("%s:%d", f.path, 1+strings.Count(f.text[:offset], "\n"))
}

// read returns one file of the repository.
func read(t *testing.T, path string) file {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(path)))
	require.NoError(t, err)
	return file{path: path, text: string(content)}
}

// files returns the files whose names end in one of the suffixes, without what is
// built or downloaded.
func files(t *testing.T, suffixes ...string) []file {
	t.Helper()
	var list []file
	require.NoError(t, fs.WalkDir(os.DirFS(root), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (path == ".git" || path == "bin" || path == "shared"):
			return fs.SkipDir
		case d.IsDir():
			return nil
		}
		for _, suffix := range suffixes {
			if strings.HasSuffix(path, suffix) {
				list = append(list, read(t, path))
				break
			}
		}
		return nil
	}))
	require.NotEmpty(t, list)
	return list
}

// exists reports whether a file or a folder of the repository exists; the last part of
// the path may be a pattern.
func exists(path string) bool {
	found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(path)))
	return err == nil && len(found) > 0
}

var (
	fence    = regexp.MustCompile("(?ms)^[ \t]*```.*?^[ \t]*```[ \t]*$")
	codeSpan = regexp.MustCompile("`[^`\n]+(?:\n[^`\n]+)?`")
)

// blank replaces the bytes of what matches by blanks, so that offsets and lines stay.
func blank(text string, what *regexp.Regexp) string {
	return what.ReplaceAllStringFunc(text, func(s string) string {
		b := []byte(s)
		for i := range b {
			if b[i] != '\n' {
				b[i] = ' '
			}
		}
		return string(b)
	})
}
