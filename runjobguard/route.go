package runjobguard

import (
	"slices"
	"strings"
)

// decodings bounds how often a path is decoded. Odoo does it once; a proxy between may do it too.
const decodings = 4

// IsRoute reports whether a server may take a path for one of the routes. It says yes to more than
// Odoo answers: the names of a route may come anywhere in the path, because
//
//   - the first part may be a language, whose code is free text;
//   - some releases of Werkzeug take //x/queue_job/runjob for a URL with the host x;
//   - dot segments, parameters after a semicolon and doubled slashes are resolved by some servers and
//     not by others.
//
// As in Odoo, letters count as they are written.
func IsRoute(path string) bool {
	for range decodings {
		if matches(path) {
			return true
		}
		decoded := unquote(path)
		if decoded == path {
			return false
		}
		path = decoded
	}
	// What is still encoded then is no path that anybody needs.
	return true
}

// matches looks for a route among the parts of a path, with dot segments resolved and without.
func matches(path string) bool {
	var plain, resolved []string
	for part := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '/' || r == '\\' }) {
		part = strings.TrimSpace(part)
		if at := strings.IndexAny(part, ";?#\x00"); at >= 0 {
			part = part[:at]
		}
		switch part {
		case "", ".":
		case "..":
			resolved = resolved[:max(len(resolved)-1, 0)]
		default:
			plain, resolved = append(plain, part), append(resolved, part)
		}
	}
	return contains(plain) || contains(resolved)
}

// contains reports whether the names of a route follow each other.
func contains(parts []string) bool {
	for i := 1; i < len(parts); i++ {
		if slices.Contains(addons, parts[i-1]) && slices.Contains(actions, parts[i]) {
			return true
		}
	}
	return false
}

var (
	addons  = []string{"queue_job", "connector"}
	actions = []string{"runjob", "session"}
)

// unquote decodes a path once, as Python does: what is no code stays.
func unquote(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			high, low := hex(s[i+1]), hex(s[i+2])
			if high >= 0 && low >= 0 {
				out = append(out, byte(high<<4|low)) //nolint:gosec // two hexadecimal digits
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

// hex is the value of a digit, negative for anything else.
func hex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
