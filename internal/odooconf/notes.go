package odooconf

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// secrets are the keys whose values may contain anything.
var secrets = []string{"db_password", "jobrunner_db_password", "http_auth_password"}

// others are the keys of the add-on's section that are known and not needed here: connections always
// have keepalives.
var others = []string{
	"jobrunner_db_keepalives", "jobrunner_db_keepalives_idle", "jobrunner_db_keepalives_interval",
	"jobrunner_db_keepalives_count", "jobrunner_db_tcp_user_timeout",
}

// python2 reports whether the file is one of Odoo 7.0 to 10.0, which run on Python 2: by the add-on's
// section, or by the names of options that only they write.
func (r *reader) python2() bool {
	if _, ok := r.file[connector.section]; ok {
		return true
	}
	own := r.file[options]
	_, old := own["xmlrpc_port"]
	_, renamed := own["http_port"]
	return old && !renamed
}

func (r *reader) noteOnce(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(r.config.Notes, text) {
		r.config.Notes = append(r.config.Notes, text)
	}
}

// note finds what looks like a setting of the add-on and is read by no runner.
func (r *reader) note() {
	for _, name := range slices.Sorted(maps.Keys(r.file)) {
		if name == queueJob.section || name == connector.section || name == options || name == defaultSection {
			continue
		}
		if plain := letters(name); strings.Contains(plain, "queuejob") || plain == "connector" || plain == "optionsconnector" {
			r.noteOnce("section [%s] is read by no job runner: did you mean [%s]?", name, r.family.section)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(r.file[options])) {
		short := strings.TrimPrefix(key, "queue_job_")
		if slices.Contains(keys, short) && (short != key || !slices.Contains([]string{"host", "port", "scheme"}, key)) {
			r.noteOnce("[%s] %s is read by no job runner: write it as %s into [%s]", options, key, short, r.family.section)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(r.file[r.family.section])) {
		if !slices.Contains(keys, key) && !slices.Contains(others, key) {
			r.noteOnce("[%s] %s is not known to any job runner", r.family.section, key)
		}
	}
}

// letters is a name without what people confuse.
func letters(name string) string {
	return strings.Map(func(c rune) rune {
		if strings.ContainsRune(" _-.", c) {
			return -1
		}
		return c
	}, strings.ToLower(name))
}
