package odooconf

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the expected files anew")

func none(string) (string, bool) { return "", false }

func environment(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

// TestSeries reads a file of each series of Odoo. They are laid out as --save of
// the series writes them, 14.0 and 19.0 after the real thing, the others after
// their options. 19.0 drops the add-on's section when it saves; it is added by hand
// there. One more file has what people write.
func TestSeries(t *testing.T) {
	files, err := filepath.Glob("testdata/*.conf")
	require.NoError(t, err)
	require.Len(t, files, 13+1, "7.0 to 19.0, and one by hand")
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, err := Load(file, none)
			require.NoError(t, err)
			got, err := json.MarshalIndent(c, "", "  ")
			require.NoError(t, err)
			golden := strings.TrimSuffix(file, ".conf") + ".json"
			if *update {
				require.NoError(t, os.WriteFile(golden, append(got, '\n'), 0o600))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), string(got)+"\n")
			for _, secret := range []string{c.DBPassword, c.AuthPassword} {
				if secret != "" {
					require.NotContains(t, string(got), secret)
				}
			}
		})
	}
}

// load reads a file of that content.
func load(t *testing.T, content string, vars map[string]string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "odoo.conf")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return Load(path, environment(vars))
}

// TestPrecedence goes through the places where a value can stand, the first one
// that counts first: variable, the add-on's section, Odoo's own options.
func TestPrecedence(t *testing.T) {
	for _, f := range []struct {
		env, section string
	}{{"ODOO_QUEUE_JOB_", "queue_job"}, {"ODOO_CONNECTOR_", "options-connector"}} {
		for _, test := range []struct {
			key     string
			options []string
			values  []string // of variable, section, options
			get     func(*Config) string
			last    string // the default
		}{
			{"channels", nil, []string{"root:7", "root:8"}, func(c *Config) string { return c.Channels }, ""},
			{"scheme", nil, []string{"https", "http"}, func(c *Config) string { return strings.SplitN(c.URL, ":", 2)[0] }, "http"},
			{
				"host", []string{"http_interface", "xmlrpc_interface"}, []string{"e", "s", "h", "x"},
				func(c *Config) string { return strings.Split(c.URL[len("http://"):], ":")[0] }, "localhost",
			},
			{
				"port", []string{"http_port", "xmlrpc_port"}, []string{"1", "2", "3", "4"},
				func(c *Config) string { return c.URL[strings.LastIndex(c.URL, ":")+1:] }, "8069",
			},
			{"http_auth_user", nil, []string{"e", "s"}, func(c *Config) string { return c.AuthUser }, ""},
			{"http_auth_password", nil, []string{"e", "s"}, func(c *Config) string { return c.AuthPassword }, ""},
			{"jobrunner_db_host", []string{"db_host"}, []string{"e", "s", "o"}, func(c *Config) string { return c.DBHost }, ""},
			{
				"jobrunner_db_port", []string{"db_port"}, []string{"1", "2", "3"},
				func(c *Config) string { return fmt.Sprint(c.DBPort) }, "0",
			},
			{"jobrunner_db_user", []string{"db_user"}, []string{"e", "s", "o"}, func(c *Config) string { return c.DBUser }, ""},
			{"jobrunner_db_password", []string{"db_password"}, []string{"e", "s", "o"}, func(c *Config) string { return c.DBPassword }, ""},
			{
				"max_capacity", nil, []string{"5", "6"},
				func(c *Config) string {
					if c.MaxCapacity == nil {
						return "null"
					}
					return fmt.Sprint(*c.MaxCapacity)
				}, "null",
			},
			{"db_max_capacity", nil, []string{"a:5", "6"}, func(c *Config) string { return c.DBMaxCapacity }, ""},
		} {
			t.Run(f.section+" "+test.key, func(t *testing.T) {
				variable := f.env + strings.ToUpper(test.key)
				for present := len(test.values); present >= 0; present-- {
					// The last so many places have a value.
					from := len(test.values) - present
					vars := map[string]string{}
					var content string
					section, options := "["+f.section+"]\n", "[options]\n"
					for i := from; i < len(test.values); i++ {
						switch i {
						case 0:
							vars[variable] = test.values[i]
						case 1:
							section += test.key + " = " + test.values[i] + "\n"
						default:
							options += test.options[i-2] + " = " + test.values[i] + "\n"
						}
					}
					content = options + section
					if from > 0 && f.section == "queue_job" {
						vars[variable] = "" // an empty variable is not set
					}
					c, err := load(t, content, vars)
					require.NoError(t, err)
					want := test.last
					if present > 0 {
						want = test.values[from]
					}
					require.Equal(t, want, test.get(c), "%s %v", content, vars)
				}
			})
		}
	}
}

func TestFamilies(t *testing.T) {
	both := "[options]\n[queue_job]\nchannels=root:1\n[options-connector]\nchannels=root:2\n"
	c, err := load(t, both, map[string]string{"ODOO_CONNECTOR_CHANNELS": "root:3"})
	require.NoError(t, err)
	require.Equal(t, "root:1", c.Channels)
	c, err = load(t, "[options]\n", map[string]string{"ODOO_CONNECTOR_CHANNELS": "root:3"})
	require.NoError(t, err)
	require.Equal(t, "root:3", c.Channels)
	c, err = load(t, "[options-connector]\nchannels=root:2\n", map[string]string{"ODOO_QUEUE_JOB_CHANNELS": "root:4"})
	require.NoError(t, err)
	require.Equal(t, "root:4", c.Channels)
}

func TestRunnerOff(t *testing.T) {
	for name, test := range map[string]struct {
		content  string
		vars     map[string]string
		off      bool
		channels string
	}{
		"root:0":           {"[queue_job]\nchannels = root:0\n", nil, true, ""},
		"prefix":           {"[queue_job]\nchannels =  root:0,sub:2\n", nil, true, ""},
		"variable":         {"[queue_job]\nchannels = root:5\n", map[string]string{"ODOO_QUEUE_JOB_CHANNELS": "root:0"}, true, ""},
		"not the prefix":   {"[queue_job]\nchannels = sub:2,root:0\n", nil, false, "sub:2,root:0"},
		"spaces":           {"[queue_job]\nchannels = root : 0\n", nil, false, "root : 0"},
		"nothing set":      {"[options]\n", nil, false, ""},
		"no capacity":      {"[queue_job]\nmax_capacity = 0\n", nil, true, ""},
		"negative":         {"[queue_job]\nmax_capacity = -1\n", nil, true, ""},
		"channels win":     {"[queue_job]\nmax_capacity = 0\nchannels = root:2\n", nil, false, "root:2"},
		"8.0 by variable":  {"[options-connector]\nchannels = root:2\n", map[string]string{"ODOO_CONNECTOR_CHANNELS": ""}, true, "root:2"},
		"10.0 by variable": {"[queue_job]\nchannels = root:2\n", map[string]string{"ODOO_QUEUE_JOB_CHANNELS": ""}, false, "root:2"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := load(t, test.content, test.vars)
			require.NoError(t, err)
			require.Equal(t, test.off, c.RunnerOff)
			require.Equal(t, test.channels, c.Channels)
		})
	}
}

// wrongValues has a wrong value for each key that cannot be any text, by section,
// and what the error says of it.
var wrongValues = []struct{ section, key, value, want string }{
	{"options", "http_port", "eighty", `"eighty" is no port`},
	{"options", "xmlrpc_port", "0", `"0" is no port`},
	{"options", "http_interface", "http://10.0.0.5", `"http://10.0.0.5" is no host`},
	{"options", "xmlrpc_interface", "10.0.0.5:8069", `"10.0.0.5:8069" is no host`},
	{"options", "db_port", "99999", `"99999" is no port`},
	{"options", "db_sslmode", "maybe", `"maybe" is no sslmode`},
	{"options", "workers", "many", `"many" is no whole number`},
	{"options", "limit_time_real", "long", `"long" is no whole number`},
	{"add-on", "scheme", "ftp", `"ftp" is neither http nor https`},
	{"add-on", "host", "odoo/", `"odoo/" is no host`},
	{"add-on", "port", "-1", `"-1" is no port`},
	{"add-on", "jobrunner_db_port", "x", `"x" is no port`},
	{"add-on", "max_capacity", "1.5", `"1.5" is no whole number`},
	{"add-on", "db_max_capacity", "a:1,b:x", `"x" is no whole number`},
}

// anyText are the keys of the add-on whose value is not looked into here; that of
// channels is when the runner takes it.
var anyText = []string{
	"channels", "http_auth_user", "http_auth_password", "jobrunner_db_host", "jobrunner_db_user", "jobrunner_db_password",
}

// Errors name file, section and key, or the variable.
func TestWrongValues(t *testing.T) {
	covered := slices.Clone(anyText)
	for _, w := range wrongValues {
		if w.section != "add-on" {
			_, err := load(t, "["+w.section+"]\n"+w.key+" = "+w.value+"\n", nil)
			require.ErrorContains(t, err, "odoo.conf: ["+w.section+"] "+w.key+": "+w.want)
			continue
		}
		covered = append(covered, w.key)
		for _, f := range []family{queueJob, connector} {
			_, err := load(t, "["+f.section+"]\n"+w.key+" = "+w.value+"\n", nil)
			require.ErrorContains(t, err, "odoo.conf: ["+f.section+"] "+w.key+": "+w.want)
			variable := f.env + strings.ToUpper(w.key)
			_, err = load(t, "[options]\n", map[string]string{variable: w.value})
			require.ErrorContains(t, err, "odoo.conf: "+variable+": "+w.want)
		}
	}
	require.ElementsMatch(t, keys, covered)
}

// Errors of the format name file and line.
func TestErrors(t *testing.T) {
	for content, want := range map[string]string{
		"db_host = x\n":         "line 1: there is no section before the first key",
		"[options]\nnonsense\n": `line 2: expected a key, "=" and a value`,
		"[options]\n= x\n":      `line 2: expected a key, "=" and a value`,
		"[]\n":                  `line 1: "[]" is no section`,
		"[options]\nx = " + strings.Repeat("x", 2<<20): "token too long",
	} {
		_, err := load(t, content, nil)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "odoo.conf: ")
	}
	_, err := Load(filepath.Join(t.TempDir(), "none.conf"), none)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "none.conf")
}

// TestNotSet: Odoo's reader makes False of the word in any section, so the add-on falls back; in a
// variable it is a word like any other.
func TestNotSet(t *testing.T) {
	for _, word := range []string{"False", "false", "None", ""} {
		for _, f := range []family{queueJob, connector} {
			section := "[" + f.section + "]\n"
			for _, key := range keys {
				section += key + " = " + word + "\n"
			}
			c, err := load(t, section+"[options]\ndb_password = real\ndb_user = odoo\ndb_host = db\ndb_port = 5433\n", nil)
			require.NoError(t, err)
			require.Equal(t, []any{"real", "odoo", "db", 5433}, []any{c.DBPassword, c.DBUser, c.DBHost, c.DBPort}, word)
			require.Equal(t, []string{"", "", "", "http://localhost:8069"}, []string{c.AuthUser, c.AuthPassword, c.Channels, c.URL})
		}
	}
	c, err := load(t, "[options]\ndb_password = real\n", map[string]string{"ODOO_QUEUE_JOB_JOBRUNNER_DB_PASSWORD": "False"})
	require.NoError(t, err)
	require.Equal(t, "False", c.DBPassword)
}

// TestComments: Python 2 ends a value at " ;". Only in a password the text could be meant.
func TestComments(t *testing.T) {
	const content = "db_host = db ; the big one\nworkers = 4 ;four\ndb_user = a;b\ndb_password = x ;y\ndbfilter = ^p$\t; only\n"
	for before, want := range map[string]struct{ password, note string }{
		"[options]\nhttp_port = 8069 ; http\n":               {"x ;y", `[options] db_password: " ;" is part of it`},
		"[options]\nxmlrpc_port = 8069 ; http\n":             {"x", `[options] db_password: what follows " ;" is a comment`},
		"[options-connector]\n[options]\nhttp_port = 8069\n": {"x", `[options] db_password: what follows " ;" is a comment`},
	} {
		c, err := load(t, before+content, nil)
		require.NoError(t, err)
		require.Equal(t, []any{"db", 4, "a;b", want.password, "^p$", "http://localhost:8069"},
			[]any{c.DBHost, c.Workers, c.DBUser, c.DBPassword, c.DBFilter, c.URL}, before)
		require.Len(t, c.Notes, 1)
		require.Contains(t, c.Notes[0], want.note)
	}
	c, err := load(t, "[queue_job]\nchannels = root:4 ; all\n  sub:2\n", nil)
	require.NoError(t, err)
	require.Equal(t, "root:4\nsub:2", c.Channels)
}

// TestNotes: what no runner reads is not passed over in silence.
func TestNotes(t *testing.T) {
	for content, want := range map[string][]string{
		"[options]\nqueue_job_channels = root:4\n": {"[options] queue_job_channels is read by no job runner: write it as channels into [queue_job]"},
		"[options]\nchannels = root:4\n":           {"[options] channels is read by no job runner: write it as channels into [queue_job]"},
		"[options]\njobrunner_db_host = x\n":       {"[options] jobrunner_db_host is read by no job runner: write it as jobrunner_db_host into [queue_job]"},
		"[queue-job]\nchannels = root:4\n":         {"section [queue-job] is read by no job runner: did you mean [queue_job]?"},
		"[queue_job]\nchannel = root:4\n":          {"[queue_job] channel is not known to any job runner"},
		"[options]\nhost = x\n[queue_job]\njobrunner_db_keepalives = 1\nchannels = root:1\n[other]\nx = y\n": nil,
	} {
		c, err := load(t, content, nil)
		require.NoError(t, err)
		require.Equal(t, want, c.Notes, content)
	}
}

// TestLinear: a value of very many lines takes no longer than as many values.
func TestLinear(t *testing.T) {
	content := "[options]\nx = 1" + strings.Repeat("\n y", 400_000) + "\n"
	began := time.Now()
	f, err := parseINI(strings.NewReader(content))
	require.NoError(t, err)
	require.Len(t, f["options"]["x"], 1+2*400_000)
	require.Less(t, time.Since(began), 5*time.Second, "quadratic, it takes minutes")
}

// TestOpen: what is no regular file of a sensible size is refused at once.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	fifo, huge := filepath.Join(dir, "fifo"), filepath.Join(dir, "huge")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	require.NoError(t, os.WriteFile(huge, nil, 0o600))
	require.NoError(t, os.Truncate(huge, 1<<40))
	for path, want := range map[string]string{
		fifo: "it is no regular file", "/dev/zero": "it is no regular file", dir: "it is no regular file", huge: "it is larger than",
	} {
		_, err := Load(path, none)
		require.ErrorContains(t, err, path+": "+want)
	}
}

func TestFilterGlob(t *testing.T) {
	for filter, want := range map[string]string{
		"": "", ".*": "", "prod": "prod*", "^prod": "prod*", "^prod$": "prod", "prod$": "prod",
		"^prod.*": "prod*", "^prod_.*$": "prod_*",
	} {
		got, err := (&Config{DBFilter: filter}).FilterGlob()
		require.NoError(t, err, filter)
		require.Equal(t, want, got, filter)
	}
	for filter, want := range map[string]error{
		"^%d$": ErrHostFilter, "%h": ErrHostFilter, "^(a|b)$": ErrRegexp, "a.b": ErrRegexp, "a+": ErrRegexp,
	} {
		_, err := (&Config{DBFilter: filter}).FilterGlob()
		require.ErrorIs(t, err, want, filter)
	}
}

func TestINI(t *testing.T) {
	f, err := parseINI(strings.NewReader("\ufeff[a]\r\nKey = one\r\n  two\r\n\r\n  three\r\n\r\nother:x = y\n# comment\n ; comment\nempty =\n[DEFAULT]\nd = 1\n[a]\nkey = again\n[b]\n"))
	require.NoError(t, err)
	require.Equal(t, ini{
		"a":       {"key": "again", "other": "x = y", "empty": ""},
		"DEFAULT": {"d": "1"},
		"b":       {},
	}, f)
	f, err = parseINI(strings.NewReader("[a]\nk = one\n\n  # no\n  two\nz = 1 # not a comment ; nor this\n"))
	require.NoError(t, err)
	require.Equal(t, "one\n\ntwo", f["a"]["k"])
	require.Equal(t, "1 # not a comment ; nor this", f["a"]["z"])
}

func FuzzINI(f *testing.F) {
	f.Add("[options]\na = b\n c\n\n[x]\n")
	f.Add("[]\n=\n  x")
	f.Fuzz(func(t *testing.T, content string) {
		file, err := parseINI(strings.NewReader(content))
		if err != nil {
			return
		}
		for _, section := range file {
			for key := range section {
				require.Equal(t, strings.ToLower(key), key)
				require.NotEmpty(t, key)
			}
		}
	})
}
