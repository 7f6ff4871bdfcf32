package oneshot

import "bytes"

// verdict is what can be said of an answer that may not be complete.
type verdict uint8

const (
	// unfinished: what has arrived so far is the beginning of an empty answer.
	unfinished verdict = iota
	// empty: it is an answer of status 200 without a body.
	empty
	// other: it is for net/http to read.
	other
)

var (
	lineEnd        = []byte("\r\n")
	contentLength  = []byte("Content-Length")
	transferCoding = []byte("Transfer-Encoding")
	firstLines     = [...]string{"HTTP/1.0 200", "HTTP/1.1 200"}
)

// judge finds out whether an answer is the usual one of the add-on, which says nothing but its status:
// that one need not become a [net/http.Response]. It is strict: whatever is not beyond doubt is other.
func judge(answer []byte) verdict {
	line, rest, complete := bytes.Cut(answer, lineEnd)
	if v := judgeFirst(line, complete); v != empty {
		return v
	}
	length := false
	for {
		line, rest, complete = bytes.Cut(rest, lineEnd)
		switch {
		case !complete:
			return unfinished
		case len(line) == 0 && length:
			return empty
		case len(line) == 0:
			return other // the body ends with the connection
		}
		name, value, found := bytes.Cut(line, []byte{':'})
		switch {
		case !found, !token(name), !printable(value), bytes.EqualFold(name, transferCoding):
			return other
		case bytes.EqualFold(name, contentLength):
			if string(bytes.Trim(value, " ")) != "0" {
				return other
			}
			length = true
		}
	}
}

// judgeFirst judges the status line. It returns empty for one that an empty answer may have.
func judgeFirst(line []byte, complete bool) verdict {
	for _, first := range firstLines {
		n := min(len(first), len(line))
		switch {
		case string(line[:n]) != first[:n]:
			continue
		case !complete:
			return unfinished
		case n < len(first), len(line) > n && line[n] != ' ', !printable(line):
			return other
		}
		return empty
	}
	return other
}

// token reports whether a name is one that HTTP allows. It knows fewer signs than HTTP does.
func token(name []byte) bool {
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return len(name) > 0
}

// printable reports whether a text has no control characters.
func printable(text []byte) bool {
	for _, c := range text {
		if c < ' ' || c == 0x7f {
			return false
		}
	}
	return true
}
