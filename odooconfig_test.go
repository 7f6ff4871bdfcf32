package jobrunner

import (
	"encoding/json"
	goflag "flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// odooConf writes a configuration file of Odoo.
func odooConf(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "odoo.conf")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

const wholeConf = `[options]
db_host = db.internal
db_port = 5433
db_user = o'do\o
db_password = {env.p}'a ss\w
db_name = erp,erp_test
http_interface = 10.1.1.1
http_port = 8070

[queue_job]
channels = root:4,root.mail:2:throttle=1
http_auth_user = jobrunner
http_auth_password = hush
`

// TestOdooConfig: the file suffices.
func TestOdooConfig(t *testing.T) {
	cfgs, err := validate(t, block("odoo_config "+odooConf(t, wholeConf)))
	require.NoError(t, err)
	cfg := cfgs["default"]
	require.Equal(t, "db.internal", cfg.Postgres.Host)
	require.EqualValues(t, 5433, cfg.Postgres.Port)
	require.Equal(t, `o'do\o`, cfg.Postgres.User)
	require.Equal(t, `{env.p}'a ss\w`, cfg.Postgres.Password)
	require.Equal(t, "postgres", cfg.Postgres.Database)
	require.Equal(t, []string{"erp", "erp_test"}, cfg.Databases)
	require.Equal(t, []string{"http://10.1.1.1:8070"}, upstreamNames(t, cfg))
	require.Equal(t, []channels.Config{
		{Name: "root", Capacity: 4}, {Name: "root.mail", Capacity: 2, Throttle: 1e9},
	}, cfg.Channels)
	driver, ok := cfg.Driver.(*OdooDriver)
	require.True(t, ok)
	require.Equal(t, "jobrunner", driver.options.BasicAuthUser)
	require.Equal(t, "hush", driver.options.BasicAuthPassword)
}

// TestOdooConfigLoses: what the block says itself goes before the file.
func TestOdooConfigLoses(t *testing.T) {
	cfgs, err := validate(t, block(`
		odoo_config `+odooConf(t, wholeConf)+`
		postgres host=other
		databases shop
		upstream 10.0.0.5:8069
		channels root:9
		driver odoo {
			basic_auth me {env.PATH}
		}`))
	require.NoError(t, err)
	cfg := cfgs["default"]
	require.Equal(t, "other", cfg.Postgres.Host)
	require.NotContains(t, cfg.Postgres.Password, "ss", "the file's password is for another server")
	require.Equal(t, []string{"shop"}, cfg.Databases)
	require.Equal(t, []string{"http://10.0.0.5:8069"}, upstreamNames(t, cfg))
	require.Equal(t, []channels.Config{{Name: "root", Capacity: 9}}, cfg.Channels)
	require.Equal(t, "me", cfg.Driver.(*OdooDriver).options.BasicAuthUser)

	cfgs, err = validate(t, block("odoo_config "+odooConf(t, wholeConf)+"\npostgres_password mine"))
	require.NoError(t, err)
	require.Equal(t, "mine", cfgs["default"].Postgres.Password)
	require.Equal(t, "db.internal", cfgs["default"].Postgres.Host)

	cfgs, err = validate(t, block("odoo_config "+odooConf(t, wholeConf)+"\nsite odoo.example.com")+
		"odoo.example.com {\n\treverse_proxy 10.0.0.7:8069\n}\n")
	require.NoError(t, err)
	require.Equal(t, []string{"http://10.0.0.7:8069"}, upstreamNames(t, cfgs["default"]))
}

// TestOdooConfigCapacity: what switches Odoo's own runner off is no capacity.
func TestOdooConfigCapacity(t *testing.T) {
	for content, want := range map[string][]channels.Config{
		"[queue_job]\nchannels = root:0\n":       nil,
		"[queue_job]\nchannels = root:0,sub:3\n": nil,
		"[queue_job]\nmax_capacity = 0\n":        nil,
		"[options]\n":                            nil,
	} {
		cfgs, err := validate(t, block("odoo_config "+odooConf(t, content)))
		require.NoError(t, err)
		require.Equal(t, want, cfgs["default"].Channels, content)
	}
	t.Setenv("ODOO_QUEUE_JOB_CHANNELS", "root:6")
	cfgs, err := validate(t, block("odoo_config "+odooConf(t, "[queue_job]\nchannels = root:0\n")))
	require.NoError(t, err)
	require.Equal(t, []channels.Config{{Name: "root", Capacity: 6}}, cfgs["default"].Channels)
}

// TestOdooConfigDatabaseChannels: a site that has limits for channels in the
// databases, and no channels, uses those.
func TestOdooConfigDatabaseChannels(t *testing.T) {
	for content, want := range map[string]string{
		"max_capacity = 12":                        "12 12",
		"db_max_capacity = a*:3,*:2":               "1 3",
		"max_capacity = 12\ndb_max_capacity = 6":   "12 6",
		"max_capacity = 4\nchannels = root:0":      "4 4",
		"max_capacity = 0\ndb_max_capacity = a*:5": "1 5",
		"max_capacity = 12\nchannels = root:3":     "",
		"max_capacity = 0":                         "",
		"db_max_capacity = a:5\nchannels = root:3": "",
		"": "",
	} {
		cfgs, err := validate(t, block("odoo_config "+odooConf(t, "[queue_job]\n"+content+"\n")))
		require.NoError(t, err)
		got := ""
		if c := cfgs["default"].DatabaseChannels; c != nil {
			require.Empty(t, cfgs["default"].Channels)
			got = fmt.Sprint(c.Max, c.Of("abc"))
		}
		require.Equal(t, want, got, content)
	}
	path := odooConf(t, "[queue_job]\nmax_capacity = 12\n")
	cfgs, err := validate(t, block("odoo_config "+path+"\nchannels root:2"))
	require.NoError(t, err)
	require.Nil(t, cfgs["default"].DatabaseChannels, "the block goes before the file")
	cfgs, err = validate(t, block("odoo_config "+path+"\nchannels database"))
	require.NoError(t, err)
	require.Equal(t, 1, cfgs["default"].DatabaseChannels.Max, "as a whole")
	t.Setenv("ODOO_QUEUE_JOB_MAX_CAPACITY", "7")
	t.Setenv("ODOO_QUEUE_JOB_DB_MAX_CAPACITY", "a*:5")
	cfgs, err = validate(t, block("odoo_config "+path))
	require.NoError(t, err)
	require.Equal(t, 7, cfgs["default"].DatabaseChannels.Max)
	require.Equal(t, 5, cfgs["default"].DatabaseChannels.Of("abc"))
}

func TestOdooConfigDatabases(t *testing.T) {
	for filter, want := range map[string][]string{
		"^prod$": {"prod"}, "prod": {"prod*"}, "^%d$": nil, "(a|b)": nil, ".*": nil, "": nil,
	} {
		cfgs, err := validate(t, block("odoo_config "+odooConf(t, "[options]\ndbfilter = "+filter+"\n")))
		require.NoError(t, err)
		require.Equal(t, want, cfgs["default"].Databases, filter)
	}
}

func TestOdooConfigErrors(t *testing.T) {
	for content, want := range map[string]string{
		"[options]\nhttp_port = x\n":                    `[options] http_port: "x" is no port`,
		"[options]\ndb_name = a*\n":                     `[options] db_name: "a*" cannot be taken`,
		"[queue_job]\nchannels = root:x\n":              `[queue_job] channels: `,
		"[queue_job]\nchannels = root:4,s:2:sequential": `[queue_job] channels: `,
		"[options-connector]\nchannels = root:x\n":      `[options-connector] channels: `,
		"[queue_job]\nmax_capacity = 2.5\n":             `[queue_job] max_capacity: "2.5" is no whole number`,
		"[queue_job]\ndb_max_capacity = [z-a]:4":        `[queue_job] db_max_capacity: db_max_capacity: rule "[z-a]:4"`,
	} {
		_, err := validate(t, block("odoo_config "+odooConf(t, content)))
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "runner default: odoo_config: ")
		require.ErrorContains(t, err, "odoo.conf: ")
	}
	_, err := validate(t, block("odoo_config /no/such/odoo.conf"))
	require.ErrorContains(t, err, "/no/such/odoo.conf")
}

// TestOdooConfigKeepsSecrets: what Caddy shows and logs has no password in it.
func TestOdooConfigKeepsSecrets(t *testing.T) {
	raw, err := adapt(t, block("odoo_config "+odooConf(t, wholeConf)))
	require.NoError(t, err)
	var cfg *caddy.Config
	require.NoError(t, json.Unmarshal(raw, &cfg))
	require.NoError(t, caddy.Validate(cfg))
	shown, err := json.Marshal(cfg)
	require.NoError(t, err)
	require.False(t, strings.Contains(string(shown), `ss\\w`) || strings.Contains(string(shown), "hush"))
	require.NotContains(t, string(shown), "db.internal")
}

var update = goflag.Bool("update", false, "write the expected files anew")

// resolvedRunner is what became of a file: the adapted configuration, and what the
// runner got.
type resolvedRunner struct {
	Adapted  json.RawMessage `json:"adapted"`
	Postgres struct {
		Host     string `json:"host"`
		Port     uint16 `json:"port"`
		User     string `json:"user"`
		Database string `json:"database"`
		Password bool   `json:"password"`
		TLS      bool   `json:"tls"`
	} `json:"postgres"`
	Databases []string            `json:"databases"`
	Upstreams []string            `json:"upstreams"`
	Channels  map[string]*Channel `json:"channels"`
	// InDatabases are the bounds where the channels are in the databases.
	InDatabases *channels.Capacities `json:"database_channels,omitempty"`
	BasicAuth   string               `json:"basic_auth_user,omitempty"`
}

// TestOdooConfigOfEachSeries adapts and provisions a runner from a file of each
// series, and compares with the expected JSON.
func TestOdooConfigOfEachSeries(t *testing.T) {
	t.Setenv("PGHOST", "pg.default")
	t.Setenv("PGUSER", "caddy")
	files, err := filepath.Glob("internal/odooconf/testdata/*.conf")
	require.NoError(t, err)
	require.Len(t, files, 13+1, "7.0 to 19.0, and one by hand")
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			caddyfile := block("odoo_config " + file)
			var got resolvedRunner
			got.Adapted, err = adapt(t, caddyfile)
			require.NoError(t, err)
			cfgs, err := validate(t, caddyfile)
			require.NoError(t, err)
			cfg := cfgs["default"]
			pg := &got.Postgres
			pg.Host, pg.Port, pg.User, pg.Database = cfg.Postgres.Host, cfg.Postgres.Port, cfg.Postgres.User, cfg.Postgres.Database
			pg.Password, pg.TLS = cfg.Postgres.Password != "", cfg.Postgres.TLSConfig != nil
			got.Databases, got.Upstreams, got.Channels = cfg.Databases, upstreamNames(t, cfg), map[string]*Channel{}
			for _, c := range cfg.Channels {
				got.Channels[c.Name] = ocaChannel(c)
			}
			got.InDatabases = cfg.DatabaseChannels
			got.BasicAuth = cfg.Driver.(*OdooDriver).options.BasicAuthUser
			text, err := json.MarshalIndent(got, "", "  ")
			require.NoError(t, err)
			golden := "testdata/odoo_config/" + strings.TrimSuffix(filepath.Base(file), ".conf") + ".json"
			if *update {
				require.NoError(t, os.WriteFile(golden, append(text, '\n'), 0o600))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), string(text)+"\n")
		})
	}
}
