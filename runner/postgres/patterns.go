package postgres

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Patterns compiles globs over database names: a name matches if one of the positive globs does, or
// there is none, and no glob with a leading "!" does. The globs are those of [path.Match], except
// that a slash is a character like any other, as it is in a database name.
func Patterns(patterns []string) (match func(name string) bool, err error) {
	var positive, negative []string
	for _, p := range patterns {
		list := &positive
		glob, excluded := strings.CutPrefix(p, "!")
		if excluded {
			list = &negative
		}
		if glob == "" {
			return nil, fmt.Errorf("database pattern %q is empty", p)
		}
		glob = plainSlash.Replace(glob)
		if _, err := path.Match(glob, ""); err != nil {
			return nil, fmt.Errorf("database pattern %q: %w", p, err)
		}
		*list = append(*list, glob)
	}
	return func(name string) bool {
		return (len(positive) == 0 || anyMatch(positive, name)) && !anyMatch(negative, name)
	}, nil
}

// HasPositive reports whether there is a glob that includes.
func HasPositive(patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return !strings.HasPrefix(p, "!") })
}

// plainSlash hides slashes from path.Match. A database name cannot contain NUL.
var plainSlash = strings.NewReplacer("/", "\x00")

func anyMatch(globs []string, name string) bool {
	name = plainSlash.Replace(name)
	for _, g := range globs {
		if ok, err := path.Match(g, name); ok && err == nil {
			return true
		}
	}
	return false
}
