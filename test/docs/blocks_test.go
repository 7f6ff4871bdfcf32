package docs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/odooconf"
)

// A block is a fenced block of a document.
type block struct {
	document, language string
	line               int
	// text is without the indentation of the fence.
	text string
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.document, b.line) }

var opening = regexp.MustCompile("^([ \t]*)```(.*)$")

// blocksOf returns the fenced blocks of a document.
func blocksOf(f file) []block {
	var list []block
	var indent string
	inside := false
	for i, line := range strings.Split(f.text, "\n") {
		m := opening.FindStringSubmatch(line)
		switch {
		case m != nil && !inside:
			inside, indent = true, m[1]
			list = append(list, block{document: f.path, language: m[2], line: i + 1})
		case m != nil:
			inside = false
		case inside:
			list[len(list)-1].text += strings.TrimPrefix(line, indent) + "\n"
		}
	}
	return list
}

// checkedElsewhere says which test runs or reads the blocks of a language, by document; "" stands for
// every document.
var checkedElsewhere = map[string]map[string]string{
	"caddyfile": {"": "TestDocuments in test/integration", "docs/drivers.md": "TestSkeletonCaddyfile"},
	"json":      {"": "TestDocuments in test/integration", "docs/reference.md": "TestExamplesOfModules"},
	"go":        {"docs/drivers.md": "TestSkeleton"},
	"sql":       {"SECURITY.md": "the attack suite", "docs/guide.md": "TestRightsOfTheGuide in test/integration"},
	"text": {
		"SECURITY.md":         "the attack suite",
		"docs/model.md":       "output",
		"docs/reliability.md": "output",
		"docs/benchmarks.md":  "output of TestListPlans",
		"docs/reference.md":   "TestReference",
	},
	"mermaid": {"docs/architecture.md": "a picture"},
}

// checkedHere are the languages whose blocks are checked below.
var checkedHere = map[string]func(t *testing.T, b block){"sh": checkShell, "ini": checkINI, "dockerfile": checkDockerfile}

// TestBlocks: each block of a document says what language it is in, and a test runs or reads it.
func TestBlocks(t *testing.T) {
	seen := map[string]int{}
	for _, f := range files(t, ".md") {
		for _, b := range blocksOf(f) {
			seen[b.language]++
			elsewhere := checkedElsewhere[b.language]
			switch check := checkedHere[b.language]; {
			case check != nil:
				check(t, b)
			case elsewhere[""] == "" && elsewhere[b.document] == "":
				assert.Fail(t, "a block that nothing checks", "%s: language %q", b, b.language)
			}
		}
	}
	for language := range checkedHere {
		require.NotZero(t, seen[language], language)
	}
	tests := files(t, "_test.go")
	for language, by := range checkedElsewhere {
		require.NotZero(t, seen[language], language)
		for _, who := range by {
			name, _, _ := strings.Cut(who, " ")
			require.True(t, !strings.HasPrefix(name, "Test") || slices.ContainsFunc(tests, func(f file) bool {
				return strings.Contains(f.text, "\nfunc "+name+"(t *testing.T)")
			}), "there is no %s", name)
		}
	}
}

// commandsOf returns the commands of a block of shell, one word after the other: pipes and lists are
// taken apart, and comments, redirections, sudo and variables before a command left out.
func commandsOf(text string) [][]string {
	var list [][]string
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		var words []string
		end := func() {
			if i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, ">") }); i >= 0 {
				words = words[:i]
			}
			for len(words) > 0 && strings.Contains(words[0], "=") {
				words = words[1:]
			}
			if len(words) > 0 && words[0] == "sudo" {
				words = words[1:]
				if len(words) > 1 && words[0] == "-u" {
					words = words[2:]
				}
			}
			if len(words) > 0 {
				list = append(list, words)
			}
			words = nil
		}
		for _, word := range shellWord.FindAllString(line, -1) {
			if strings.HasPrefix(word, "#") {
				break
			}
			switch {
			case word == "|" || word == "&&" || word == ";":
				end()
			default:
				words = append(words, strings.NewReplacer("'", "", `"`, "").Replace(word))
			}
		}
		end()
	}
	return list
}

var shellWord = regexp.MustCompile(`(?:'[^']*'|"[^"]*"|[^\s'"])+`)

// programs are those that documents call. A check looks at the words after the name; those without
// one belong to the system, and nothing here can be wrong but their own syntax.
var programs = map[string]func(args []string) error{
	"caddy": caddyCommand, "make": makeCommand, "go": goCommand, "xcaddy": xcaddyCommand, "git": gitCommand, "cd": folder,
	"docker": composeCommand, "helm": helmCommand, "kubectl": kubectlCommand, "install": installCommand, "curl": nil,
	"apt": nil, "dpkg-divert": nil, "update-alternatives": nil, "systemctl": nil, "tee": nil, "openssl": nil, "mkdir": nil, "grep": nil,
}

func checkShell(t *testing.T, b block) {
	t.Helper()
	for _, words := range commandsOf(b.text) {
		check, known := programs[words[0]]
		if assert.True(t, known, "%s: no check for %s", b, words[0]) && check != nil {
			assert.NoError(t, check(words[1:]), "%s: %s", b, strings.Join(words, " "))
		}
	}
}

// caddyCommand: Caddy has the command, with these flags.
func caddyCommand(args []string) error {
	if len(args) > 0 && args[0] == "jobrunner" {
		return accepts(args[1:])
	}
	if len(args) == 0 || caddycmd.Commands()[args[0]].Name == "" {
		return errors.New("there is no such command of caddy")
	}
	return nil
}

// makeCommand: the Makefile has the target, and uses the variables.
func makeCommand(args []string) error {
	text, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		return err
	}
	for _, arg := range args {
		name, _, variable := strings.Cut(arg, "=")
		if variable && !strings.Contains(string(text), "$("+name+")") {
			return fmt.Errorf("make uses no variable %s", name)
		}
		if !variable && !strings.Contains(string(text), "\n"+name+":") {
			return fmt.Errorf("make has no target %s", name)
		}
	}
	return nil
}

// goCommand: what is installed is what the workflows install, and what is built is what make builds.
func goCommand(args []string) error {
	where := "Makefile"
	if args[0] == "install" {
		where = ".github/workflows/ci.yaml"
	}
	text, err := os.ReadFile(filepath.Join(root, where))
	if err != nil {
		return err
	}
	same := strings.ReplaceAll(string(text), "$(TAGS)", "nobadger,nomysql,nopgx")
	same = strings.NewReplacer("'", "", "$(GO)", "go", "$(BUILD_FLAGS)", "-trimpath -ldflags -s -w -tags nobadger,nomysql,nopgx").Replace(same)
	if command := "go " + strings.Join(args, " "); !strings.Contains(same, command) {
		return fmt.Errorf("%s has no %s", where, command)
	}
	return nil
}

const modulePath = "github.com/caddy-jobrunner/caddy-jobrunner"

// xcaddyCommand: the module is this one.
func xcaddyCommand(args []string) error {
	i := slices.Index(args, "--with")
	if args[0] != "build" || i < 0 || i+1 == len(args) {
		return errors.New("not xcaddy build --with MODULE")
	}
	if module := regexp.MustCompile(`[@=].*$`).ReplaceAllString(args[i+1], ""); module != modulePath {
		return fmt.Errorf("the module is %s", modulePath)
	}
	return nil
}

func gitCommand(args []string) error {
	if !slices.Equal(args, []string{"clone", "https://" + modulePath}) {
		return errors.New("the repository is https://" + modulePath)
	}
	return nil
}

// folder: it is one of the repository, or the clone itself.
func folder(args []string) error {
	if len(args) != 1 || args[0] != filepath.Base(modulePath) && !exists(args[0]) {
		return errors.New("there is no such folder")
	}
	return nil
}

// installCommand: a file of the repository that is installed is there.
func installCommand(args []string) error {
	for _, arg := range args {
		if strings.HasPrefix(arg, "deploy/") && !exists(arg) {
			return errors.New("there is no " + arg)
		}
	}
	return nil
}

// composeCommand: deploy/compose has the service; what runs in it is a command of Caddy's or another's.
func composeCommand(args []string) error {
	if len(args) < 2 || args[0] != "compose" {
		return errors.New("not docker compose")
	}
	var rest []string
	for _, arg := range args[2:] {
		if len(rest) > 0 || !strings.HasPrefix(arg, "-") {
			rest = append(rest, arg)
		}
	}
	switch args[1] {
	case "build", "up":
		return nil
	case "run", "exec":
		text, err := os.ReadFile(filepath.Join(root, "deploy", "compose", "compose.yaml"))
		if err != nil {
			return err
		}
		if len(rest) < 2 || !strings.Contains(string(text), "\n  "+rest[0]+":\n") {
			return errors.New("compose.yaml has no such service")
		}
		if rest[1] == "caddy" {
			return caddyCommand(rest[2:])
		}
		return nil
	}
	return errors.New("no check for docker compose " + args[1])
}

// helmCommand: the chart is there, and has the values that are set.
func helmCommand(args []string) error {
	if len(args) < 3 || args[0] != "install" || !exists(args[2]+"/Chart.yaml") {
		return errors.New("not helm install NAME CHART")
	}
	values, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(args[2]), "values.yaml"))
	if err != nil {
		return err
	}
	for i, arg := range args {
		if arg != "--set" || i+1 == len(args) {
			continue
		}
		key, _, _ := strings.Cut(args[i+1], "=")
		outer, inner, _ := strings.Cut(key, ".")
		if !regexp.MustCompile(`(?m)^` + outer + `:\n(?:(?:  .*)?\n)*?  ` + inner + `:`).Match(values) {
			return fmt.Errorf("the chart has no value %s", key)
		}
	}
	return nil
}

// kubectlCommand: the names are those that the chart uses for the release of the document.
func kubectlCommand(args []string) error {
	switch {
	case len(args) == 5 && slices.Equal(args[:4], []string{"create", "secret", "generic", "odoo-db"}) &&
		strings.HasPrefix(args[4], "--from-file=password="):
		return nil
	case len(args) > 4 && args[0] == "exec" && args[1] == "deploy/jobrunner-caddy-jobrunner" && args[2] == "--" && args[3] == "caddy":
		return caddyCommand(args[4:])
	}
	return errors.New("no check for it")
}

// checkINI reads what Odoo or systemd would.
func checkINI(t *testing.T, b block) {
	t.Helper()
	if strings.Contains(b.text, "[Service]") {
		m := regexp.MustCompile(`(?m)^TimeoutStopSec=(\S+)$`).FindStringSubmatch(b.text)
		require.NotNil(t, m, "%s", b)
		stop, err := caddy.ParseDuration(m[1])
		require.NoError(t, err)
		needs, err := caddy.ParseDuration(regexp.MustCompile("with `shutdown_timeout (\\S+)`").FindStringSubmatch(read(t, b.document).text)[1])
		require.NoError(t, err)
		require.Greater(t, stop, needs, "%s: systemd must wait longer than Caddy", b)
		return
	}
	path := filepath.Join(t.TempDir(), "odoo.conf")
	require.NoError(t, os.WriteFile(path, []byte(b.text), 0o600))
	conf, err := odooconf.Load(path, func(string) (string, bool) { return "", false })
	require.NoError(t, err, "%s", b)
	require.True(t, conf.RunnerOff, "%s switches Odoo's own runner off", b)
	require.Contains(t, conf.ServerWide, "queue_job", "%s", b)
	require.Empty(t, conf.Notes, "%s", b)
}

// checkDockerfile: it builds the Caddy that go.mod names, and its last stage is the official image.
func checkDockerfile(t *testing.T, b block) {
	t.Helper()
	version := regexp.MustCompile(`(?m)^\tgithub.com/caddyserver/caddy/v2 v(\S+)$`).FindStringSubmatch(read(t, "go.mod").text)[1]
	require.Contains(t, b.text, "FROM caddy:"+version+"-builder AS builder\n", "%s", b)
	require.Contains(t, b.text, "RUN xcaddy build v"+version+" --with "+modulePath+"@", "%s", b)
	require.Contains(t, b.text, "\nFROM caddy:"+version+"\nCOPY --from=builder /usr/bin/caddy /usr/bin/caddy\n", "%s", b)
}

var registerTickets = sync.OnceFunc(func() { caddy.RegisterModule(Tickets{}) })

// TestSkeletonCaddyfile: the configuration that docs/drivers.md shows is one of the driver that it shows.
func TestSkeletonCaddyfile(t *testing.T) {
	registerTickets()
	found := 0
	for _, b := range blocksOf(read(t, "docs/drivers.md")) {
		if b.language != "caddyfile" {
			continue
		}
		found++
		require.Equal(t, string(caddyfile.Format([]byte(b.text))), b.text, "%s", b)
		_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(b.text), map[string]any{"filename": "Caddyfile"})
		require.NoError(t, err, "%s", b)
	}
	require.NotZero(t, found)
}

func TestBlocksAreFound(t *testing.T) {
	f := file{path: "x.md", text: "a\n  ```sh\n  sudo -u caddy caddy run # so\n  A=1 make b C='d e' | grep x >y && cd docs \\\n    z\n  ```\n```\n```\n"}
	list := blocksOf(f)
	require.Len(t, list, 2)
	require.Equal(t, "x.md:2", list[0].String())
	require.Equal(t, [][]string{{"caddy", "run"}, {"make", "b", "C=d e"}, {"grep", "x"}, {"cd", "docs", "z"}}, commandsOf(list[0].text))
	for _, wrong := range []string{
		"caddy jump", "caddy jobrunner pauses", "make tset", "make test PKGS=x", "go build -o bin/caddy ./cmd/caddi", "go install x@v1",
		"xcaddy build --with github.com/x/y", "git clone https://x", "cd nowhere", "install deploy/x /etc", "docker compose exec cady caddy version",
		"docker compose exec caddy caddy jobrunner stat", "helm install x deploy/helm/caddy-jobrunner --set image.repo=x", "kubectl exec deploy/x -- caddy version",
	} {
		words := commandsOf(wrong)[0]
		require.Error(t, programs[words[0]](words[1:]), wrong)
	}
}
