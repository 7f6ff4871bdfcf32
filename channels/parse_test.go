package channels

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEntryConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc, input string
		want        Config
		warnings    []string
		err         string
	}{
		{desc: "plain", input: "A:2", want: Config{Name: "A", Capacity: 2}},
		{desc: "capacity by default", input: "A", want: Config{Name: "A", Capacity: 1}},
		{
			desc: "everything", input: "A:1:sequential:throttle=5:paused:capacity_default=1:sequential_default",
			want: Config{
				Name: "A", Capacity: 1, Sequential: true, Throttle: 5 * time.Second, Paused: true,
				CapacityDefault: 1, SequentialDefault: true,
			},
		},
		{desc: "bare throttle", input: "A:2:throttle", want: Config{Name: "A", Capacity: 2, Throttle: time.Second}},
		{desc: "empty switches are off", input: "A:2:sequential=:paused=", want: Config{Name: "A", Capacity: 2}},
		{
			desc: "switches that seem off are on", input: "A:1:sequential=False:paused=0",
			want: Config{Name: "A", Capacity: 1, Sequential: true, Paused: true},
			warnings: []string{
				"channel root.A: sequential=False: any value but an empty one switches it on",
				"channel root.A: paused=0: any value but an empty one switches it on",
			},
		},
		{
			desc: "unlimited", input: "A:0", want: Config{Name: "A"},
			warnings: []string{"channel root.A: capacity 0 means unlimited"},
		},
		{
			desc: "negative", input: "A:-1:throttle=-1", want: Config{Name: "A", Capacity: -1, Throttle: -time.Second},
			warnings: []string{
				"channel root.A: capacity -1 means that no job ever runs",
				"channel root.A: throttle=-1: a negative throttle does not delay anything",
			},
		},
		{
			desc: "an option instead of a capacity", input: "A:paused:throttle=2", want: Config{Name: "A", Paused: true, Throttle: 2 * time.Second},
			warnings: []string{"channel root.A: without a capacity before its options it is unlimited"},
		},
		{
			desc: "an option with a value instead of a capacity", input: "A: capacity_default = 2", want: Config{Name: "A", CapacityDefault: 2},
			warnings: []string{"channel root.A: without a capacity before its options it is unlimited"},
		},
		{
			desc: "sequential children", input: "A:sequential_default", want: Config{Name: "A", CapacityDefault: 1, SequentialDefault: true},
			warnings: []string{
				"channel root.A: without a capacity before its options it is unlimited",
				"channel root.A: sequential_default means a capacity_default of 1",
			},
		},
		{
			desc: "sequential children of root", input: "root:4:sequential_default=:sequential_default2", want: Config{Name: "root", Capacity: 4},
			warnings: []string{`channel root: unknown option "sequential_default2" is ignored`},
		},
		{
			desc: "negative default", input: "root:4:capacity_default=-1", want: Config{Name: "root", Capacity: 4, CapacityDefault: -1},
			warnings: []string{"channel root: capacity_default -1 means that jobs of a channel below it never run unless that channel has an entry"},
		},
		{
			desc: "unknown options", input: "A:1:sequental:", want: Config{Name: "A", Capacity: 1},
			warnings: []string{`channel root.A: unknown option "sequental" is ignored`, `channel root.A: unknown option "" is ignored`},
		},
		{
			desc: "percent signs are only text", input: "100%d:0", want: Config{Name: "100%d"},
			warnings: []string{"channel root.100%d: capacity 0 means unlimited"},
		},
		{desc: "fraction", input: "A:2:throttle=2.5", err: `channel root.A: throttle "2.5" is not a whole number of a sensible size`},
		{desc: "empty number", input: "A:2:throttle=", err: `channel root.A: throttle "" is not a whole number of a sensible size`},
		{desc: "word", input: "A:2:capacity_default=x", err: `channel root.A: capacity_default "x" is not a whole number of a sensible size`},
		{desc: "overflow", input: "A:2:throttle=99999999999", err: `channel root.A: throttle "99999999999" is not a whole number of a sensible size`},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			entries, err := ParseConfig(c.input)
			require.NoError(t, err)
			require.Len(t, entries, 1)
			got, warnings, err := entries[0].Config()
			if c.err != "" {
				require.EqualError(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			require.Equal(t, c.warnings, warnings)
		})
	}
}

func TestParseConfigs(t *testing.T) {
	t.Parallel()
	cfgs, warnings, err := ParseConfigs("root:4\nsub:2:throttle=3,root.sub:1,later:3")
	require.NoError(t, err)
	require.Equal(t, []Config{{Name: "root", Capacity: 4}, {Name: "root.sub", Capacity: 1}, {Name: "later", Capacity: 3}}, cfgs)
	require.Equal(t, []string{"channel root.sub: listed again, the last entry counts"}, warnings)

	// The spellings that came with 18.0.4 (docs/compatibility.md, "Defaults of channels").
	cfgs, warnings, err = ParseConfigs("root:4:sequential_default,sub:paused,mail:capacity_default=2")
	require.NoError(t, err)
	require.Equal(t, []Config{
		{Name: "root", Capacity: 4, CapacityDefault: 1, SequentialDefault: true},
		{Name: "sub", Paused: true},
		{Name: "mail", CapacityDefault: 2},
	}, cfgs)
	require.Len(t, warnings, 3)

	for input, warns := range map[string]bool{
		"S:2:throttle=0": false, "S:2:throttle=-1": true, "S:2:throttle=1000000000": false, "S:2:throttle=-1000000000": true,
	} {
		_, warnings, err := ParseConfigs(input)
		require.NoError(t, err, input)
		require.Equal(t, warns, len(warnings) > 0, input)
	}

	for input, want := range map[string]string{
		"root:paused":              "invalid channel config root:paused: invalid capacity paused: root needs one before its options",
		"sub:pause":                "invalid channel config sub:pause: invalid capacity pause",
		"sub:":                     "invalid channel config sub:: invalid capacity ",
		"sub:2x:paused":            "invalid channel config sub:2x:paused: invalid capacity 2x",
		"sub:paused=1=2":           "invalid channel config sub:paused=1=2: invalid capacity paused=1=2",
		"sub:paused:paused":        "invalid channel config sub:paused:paused: duplicate key paused",
		"sub:paused:capacity=3":    "invalid channel config sub:paused:capacity=3: incorrect config item capacity=3: the capacity is the number behind the name",
		"sub:sequential":           "channel root.sub: a sequential channel must have a capacity of 1",
		"root:x":                   "invalid channel config root:x: invalid capacity x",
		"S:2:sequential":           "channel root.S: a sequential channel must have a capacity of 1",
		"S:2:throttle=x":           `channel root.S: throttle "x" is not a whole number of a sensible size`,
		"S:2:throttle=1000000001":  `channel root.S: throttle "1000000001" is not a whole number of a sensible size`,
		"S:2:throttle=-1000000001": `channel root.S: throttle "-1000000001" is not a whole number of a sensible size`,
		"S:2:capacity_default=2:sequential_default": "channel root.S: sequential_default requires a capacity_default of 1",
		"root:99999999999999999999":                 "invalid channel config root:99999999999999999999: invalid capacity 99999999999999999999",
		"root:_1":                                   "invalid channel config root:_1: invalid capacity _1",
		"root:1__0":                                 "invalid channel config root:1__0: invalid capacity 1__0",
		"root:0x10":                                 "invalid channel config root:0x10: invalid capacity 0x10",
		"root:+-1":                                  "invalid channel config root:+-1: invalid capacity +-1",
		"root:2,sub:1:throttle=1:name=":             "invalid channel config root:2,sub:1:throttle=1:name=: duplicate key name",
	} {
		_, _, err := ParseConfigs(input)
		require.EqualError(t, err, want)
	}
}

func TestNormalize(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"": "root", "root": "root", "sub": "root.sub", "root.sub": "root.sub", "rootx": "root.rootx",
		"root.root": "root.root", "ROOT": "root.ROOT", "root.": "root.", ".a": "root..a", "foo bar": "root.foo bar",
	} {
		require.Equal(t, want, Normalize(name))
		require.Equal(t, want, Normalize(want))
		require.Equal(t, want, NewManager().channel(name).name)
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, s := range []string{
		"", "root:4", "root:4,root.sub:2:sequential:k=v", "\n root : 4,\n ,\n foo bar:1: k=va lue,\n", "root:4:", "root:4:=v",
		"root: +1_0 :throttle= 3 ", "a..b:2:capacity_default=1:sequential_default", "root:-1:paused=0", "root:4:a=b=c", ":4",
		"sub:paused", "sub:capacity_default=2:throttle", "root:4:sequential_default", "sub:capacity_default=-1", "sub:paused:2",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		entries, err := ParseConfig(s)
		if err != nil {
			require.Nil(t, entries)
			return
		}
		var texts []string
		for _, e := range entries {
			texts = append(texts, e.String())
		}
		again, err := ParseConfig(strings.Join(texts, ","))
		require.NoError(t, err)
		require.Equal(t, entries, again)

		if cfgs, _, err := ParseConfigs(s); err == nil {
			m := NewManager()
			require.NoError(t, m.Configure(cfgs))
			checkInvariants(t, m)
		}
	})
}

// TestUnknownOptions: the options that do nothing are told by their keys, in their order.
func TestUnknownOptions(t *testing.T) {
	entries, err := ParseConfig("root:4,A:1:sequental:prio=3:throttle=2:,B:2:paused:sequential:capacity_default=1:sequential_default")
	require.NoError(t, err)
	var unknown [][]string
	for _, e := range entries {
		unknown = append(unknown, e.Unknown())
	}
	require.Equal(t, [][]string{nil, {"sequental", "prio", ""}, nil}, unknown)
}
