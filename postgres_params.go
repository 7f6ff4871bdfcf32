package jobrunner

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"
)

// pgx sends every parameter that it does not know to the server as a setting of the session, and the
// server refuses the connection. So what libpq knows and pgx does not is sorted out here.
var (
	// ignoredParams change nothing here. The value says why.
	ignoredParams = map[string]string{
		"keepalives":                "keepalives are always on",
		"keepalives_idle":           "keepalives are always on",
		"keepalives_interval":       "keepalives are always on",
		"keepalives_count":          "keepalives are always on",
		"tcp_user_timeout":          "a silent connection is given up in any case",
		"fallback_application_name": "the application name is always set",
		"gsslib":                    "GSSAPI is not used",
		"gssdelegation":             "GSSAPI is not used",
		"sslcompression":            "TLS is never compressed",
	}
	// refusedParams would have to be obeyed and cannot be. The value says what to do instead.
	refusedParams = map[string]string{
		"hostaddr":                 "write the address as host",
		"requiressl":               "use sslmode",
		"requirepeer":              "the owner of a socket cannot be checked; leave it out",
		"sslcrl":                   "revoked certificates cannot be checked; leave it out",
		"sslcrldir":                "revoked certificates cannot be checked; leave it out",
		"sslkeylogfile":            "leave it out",
		"ssl_min_protocol_version": "TLS is 1.2 at least; leave it out",
		"ssl_max_protocol_version": "leave it out",
		"load_balance_hosts":       "hosts are tried in order; leave it out",
		"scram_client_key":         "use postgres_password",
		"scram_server_key":         "use postgres_password",
		"replication":              "leave it out",
	}
	// sessionParams are settings of a session that people write like parameters.
	sessionParams = []string{
		"application_name", "client_encoding", "datestyle", "intervalstyle", "timezone", "extra_float_digits",
		"idle_in_transaction_session_timeout", "idle_session_timeout", "lock_timeout", "statement_timeout",
		"transaction_timeout", "options", "role", "search_path", "work_mem",
	}
	// ignoredVariables are those of libpq that pgx does not read and that ask for more safety, or for
	// another server.
	ignoredVariables = map[string]string{
		"PGHOSTADDR": "hostaddr", "PGREQUIREPEER": "requirepeer", "PGSSLCRL": "sslcrl", "PGSSLCRLDIR": "sslcrldir",
		"PGSSLMINPROTOCOLVERSION": "ssl_min_protocol_version", "PGSSLMAXPROTOCOLVERSION": "ssl_max_protocol_version",
		"PGLOADBALANCEHOSTS": "load_balance_hosts",
	}
)

// checkParams takes out of a connection what the server would refuse, or refuses it by name.
func checkParams(pg *pgx.ConnConfig, log *zap.Logger) error {
	for name, param := range ignoredVariables {
		if os.Getenv(name) != "" && pg.RuntimeParams[param] == "" {
			return fmt.Errorf("postgres: the variable %s is not supported: %s", name, refusedParams[param])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pg.RuntimeParams)) {
		value, key := pg.RuntimeParams[name], strings.ToLower(name)
		switch why, ignored := ignoredParams[key]; {
		case ignored:
			log.Info("ignoring a parameter of postgres: "+why, zap.String("parameter", name))
			delete(pg.RuntimeParams, name)
		case key == "gssencmode" && (value == "disable" || value == "prefer" || value == ""):
			delete(pg.RuntimeParams, name) // GSSAPI is not used
		case key == "load_balance_hosts" && value == "disable":
			delete(pg.RuntimeParams, name)
		case key == "gssencmode":
			return fmt.Errorf("postgres: gssencmode=%s is not supported: GSSAPI is not used", value)
		case refusedParams[key] != "":
			return fmt.Errorf("postgres: the parameter %s is not supported: %s", name, refusedParams[key])
		case slices.Contains(sessionParams, key), strings.Contains(key, "."):
		default:
			return fmt.Errorf("postgres: unknown parameter %s; a setting of the session is written as options='-c name=value'", name)
		}
	}
	return nil
}

// keywordValue is one parameter of a connection string.
var keywordValue = regexp.MustCompile(`([A-Za-z_.]+)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)`)

// quoteValue writes a value into a connection string.
func quoteValue(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
}

// withoutServer returns a connection string as keywords and values, and whether it leaves open which
// server it is for and as whom: such a string only completes another one.
func withoutServer(dsn string) (keywords string, ok bool) {
	keywords = dsn
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		u, err := url.Parse(dsn)
		if err != nil || u.Host != "" || u.User != nil {
			return "", false
		}
		keywords = ""
		if name := strings.TrimPrefix(u.Path, "/"); name != "" {
			keywords = "dbname=" + quoteValue(name)
		}
		query := u.Query()
		for _, name := range slices.Sorted(maps.Keys(query)) {
			keywords += " " + name + "=" + quoteValue(query.Get(name))
		}
	}
	for _, name := range []string{"host", "hostaddr", "port", "user", "service", "servicefile"} {
		if hasKeyword(keywords, name) {
			return "", false
		}
	}
	return keywords, true
}

// hasKeyword reports whether a connection string has a parameter.
func hasKeyword(keywords, name string) bool {
	return slices.ContainsFunc(keywordValue.FindAllStringSubmatch(keywords, -1), func(m []string) bool { return m[1] == name })
}

// warnUnverified says that a false server could get the password: it goes to another machine, and
// nothing proves that it is the right one.
func warnUnverified(pg *pgx.ConnConfig, log *zap.Logger) {
	if pg.Password == "" || pg.ChannelBinding == "require" {
		return
	}
	var hosts []string
	for _, f := range append([]*pgconn.FallbackConfig{{Host: pg.Host, Port: pg.Port, TLSConfig: pg.TLSConfig}}, pg.Fallbacks...) {
		verified := f.TLSConfig != nil && (!f.TLSConfig.InsecureSkipVerify || f.TLSConfig.VerifyPeerCertificate != nil)
		if !verified && !isLocal(f.Host) && !slices.Contains(hosts, f.Host) {
			hosts = append(hosts, f.Host)
		}
	}
	if len(hosts) > 0 {
		log.Warn("the password goes to another machine and nothing proves that it is the right one: a false server gets it; "+
			"add sslmode=verify-full to postgres, and sslrootcert if your own authority has signed the server's certificate", zap.Strings("hosts", hosts))
	}
}

// isLocal reports whether a host is this machine.
func isLocal(host string) bool {
	if strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback() || net.ParseIP(host).IsLoopback()
}

// connectionFiles are the parameters that name files which are read with the configuration, with
// their variables.
var connectionFiles = map[string]string{
	"passfile": "PGPASSFILE", "servicefile": "PGSERVICEFILE", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslrootcert": "PGSSLROOTCERT",
}

// checkFiles refuses files that could make loading wait for ever.
func checkFiles(dsn string) error {
	for param, variable := range connectionFiles {
		paths := []string{os.Getenv(variable)}
		for _, m := range keywordValue.FindAllStringSubmatch(dsn, -1) {
			if m[1] == param {
				paths = append(paths, strings.Trim(m[2], "'"))
			}
		}
		for _, path := range paths {
			if err := checkRegular(path); err != nil {
				return fmt.Errorf("postgres: %s: %w", param, err)
			}
		}
	}
	return nil
}

// checkRegular refuses a pipe, a device or a directory; what is not there is the reader's affair.
func checkRegular(path string) error {
	info, err := os.Stat(path) //nolint:gosec // the path is the operator's own
	if path != "" && err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", path)
	}
	return nil
}
