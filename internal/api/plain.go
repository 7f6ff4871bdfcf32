package api

import (
	"regexp"
	"slices"
	"strings"
)

// What the driver of PostgreSQL says when it cannot connect: whom and which database it wanted, and
// then for each address, and for each of these with and without TLS, what became of it.
var (
	connectFailed = regexp.MustCompile("(?s)(?:connect to the maintenance database \\S+: |connect: )?(?:connect to [^\\s:]+: )?(?:connection lost: )?failed to connect to `(?:user=(\\S*) database=([^`]*))`:(.*)$")
	attempt       = regexp.MustCompile(`(?:\s|^)(\S+) \(([^)]*)\): `)
	dialed        = regexp.MustCompile(`^dial error: dial (?:tcp|unix) \S+: (?:connect: )?`)
	told          = regexp.MustCompile(`^(?:server error|failed SASL auth): (?:FATAL|ERROR): (.*?)(?: \(SQLSTATE \w+\))?$`)
	// follows is what stands behind the attempts: how many jobs wait, and what to check.
	follows = regexp.MustCompile(`(?: \(\d+ jobs? waits?\)| \(how many jobs wait is unknown\)|; check that PostgreSQL .*)$`)
)

// withoutTLS is the attempt with TLS at a server that has none: it says nothing where the attempt without
// it failed as well.
const withoutTLS = "tls error: server refused TLS connection"

// What the check of an Odoo server says when it fails, the address and the words of Go.
var (
	checkFailed = regexp.MustCompile(`\bcheck https?://\S+: `)
	dialFailed  = regexp.MustCompile(`\bdial (?:tcp|unix) \S+: (?:connect: )?|\bdial tcp: `)
)

// Plain says in one sentence why PostgreSQL or an Odoo server cannot be reached, where a text does so
// with all attempts and their causes, or in words of Go; another text stays as it is.
func Plain(text string) string { return plain(text, true) }

// Discreet is Plain without addresses and roles of PostgreSQL, for those who only
// look on.
func Discreet(text string) string { return plain(text, false) }

func plain(text string, where bool) string {
	at := connectFailed.FindStringSubmatchIndex(text)
	if at == nil {
		return serverPlain(text)
	}
	before, rest := text[:at[0]], text[at[6]:at[7]]
	tail := ""
	if cut := follows.FindStringIndex(rest); cut != nil {
		rest, tail = rest[:cut[0]], rest[cut[0]:]
	}
	var addresses, causes []string
	add := func(list *[]string, s string) {
		if s != "" && !slices.Contains(*list, s) {
			*list = append(*list, s)
		}
	}
	found := attempt.FindAllStringSubmatchIndex(rest, -1)
	for i, m := range found {
		end := len(rest)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		add(&addresses, rest[m[2]:m[3]])
		add(&causes, reason(strings.TrimSpace(rest[m[1]:end])))
	}
	if i := slices.Index(causes, withoutTLS); i >= 0 && len(causes) > 1 {
		causes = slices.Delete(causes, i, i+1)
	}
	if len(found) == 0 {
		add(&causes, reason(strings.TrimSpace(rest)))
	}
	subject := "PostgreSQL"
	if where && len(addresses) > 0 {
		subject += " at " + strings.Join(addresses, ", ")
	}
	if !where {
		for i := range causes {
			causes[i] = quoted.ReplaceAllString(causes[i], "…")
		}
	}
	return before + subject + " unreachable: " + strings.Join(causes, ", ") + tail
}

// serverPlain is Plain for what is said of Odoo servers.
func serverPlain(text string) string {
	text = dialFailed.ReplaceAllString(checkFailed.ReplaceAllString(text, ""), "")
	return strings.ReplaceAll(text, "context deadline exceeded", "no answer in time")
}

// quoted are names in what PostgreSQL says: of roles, databases and hosts.
var quoted = regexp.MustCompile(`"[^"]*"`)

// reason is one cause, in the words of PostgreSQL or the system.
func reason(s string) string {
	s = dialed.ReplaceAllString(strings.Join(strings.Fields(s), " "), "")
	if m := told.FindStringSubmatch(s); m != nil {
		s = m[1]
	}
	return strings.TrimPrefix(s, "hostname resolving error: ")
}
