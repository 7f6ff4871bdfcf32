package channels

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCapacitiesOf(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rules, db string
		want      int
	}{
		{"", "prod", 8},
		{"3", "prod", 3},
		{"prod_*:4,*:2", "prod_a", 4},
		{"prod_*:4, *:2", "test", 2},
		{"prod_*:4", "test", 8},
		{"*:2,prod:4", "prod", 2}, // the first one counts
		{"prod:0", "prod", 0},
		{"prod:-1", "prod", -1},
		{"Prod:3", "prod", 8},
		{"p?:3", "p1", 3},
		{"p?:3", "p", 8},
		{"p[1-3x]:3", "p2", 3},
		{"p[1-3x]:3", "px", 3},
		{"p[!1-3]:3", "p2", 8},
		{"p[!1-3]:3", "p4", 3},
		{"p[]]:3", "p]", 3},
		{"p[^1]:3", "p^", 3}, // only ! is a negation
		{"p[:3", "p[", 3},    // an unclosed bracket is literal
		{"p[!:3", "p[!", 3},
		{`p\*:3`, `p\x`, 3}, // nothing escapes
		{"p.d:3", "pxd", 8},
		{"prod:3", "xprod", 8},
		{"prod:3", "prodx", 8},
		{"p*d:3", "p\nd", 3},
		{"a:b:3", "a:b", 3},
		{"ä*:3", "äb", 3},
		{"a:3,,b:4,", "b", 4}, // nothing between two commas
	} {
		c := Capacities{Max: 8}
		if test.rules != "" {
			var err error
			c.Rules, err = ParseCapacityRules(test.rules)
			require.NoError(t, err, test.rules)
		}
		require.Equal(t, test.want, c.Of(test.db), "%q of %s", test.rules, test.db)
	}
}

func TestCapacityRulesRefused(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"":          "there is no rule",
		",,":        "there is no rule",
		"x":         `rule "x": capacity "x" is not a whole number`,
		"prod:":     `capacity "" is not a whole number`,
		"prod:1.5":  `capacity "1.5"`,
		":4":        "the pattern is empty",
		"p[z-a]:4":  "an invalid range",
		"a:1,b:two": `rule "b:two"`,
		"a*:4 b*:2": `rule "a*:4 b*:2": a comma is missing`,
	} {
		_, err := ParseCapacityRules(s)
		require.ErrorContains(t, err, want)
	}
}

func FuzzParseCapacityRules(f *testing.F) {
	for _, s := range []string{"prod_*:4,*:2", "3", "p[!a-c]?:1", "[", "[]:1", `\:1`, "[[:alpha:]]:2", "a[]:1"} {
		f.Add(s, "prod")
	}
	f.Fuzz(func(_ *testing.T, s, db string) {
		rules, err := ParseCapacityRules(s)
		if err == nil {
			Capacities{Max: 1, Rules: rules}.Of(db)
		}
	})
}
